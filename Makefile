# make demo   install, extract the sample catalogue with the bundled model, show what came out
# make test   install the test tools too, check everything
# make lock   resolve requirements.lock anew (needs the CPU build of torch: PIP_FIND_LINKS names a folder that has it)

PYTHON ?= python3.11
BIN := .venv/bin
.PHONY: demo test check lock clean

demo: .venv/installed
	$(BIN)/shelfwise extract prompts/samples/catalogue.jsonl --schema prompts/schemas --demonstrations prompts/demonstrations \
		--out demo/records.jsonl --html demo/records.html; test $$? -le 1
	$(BIN)/shelfwise view demo/records.jsonl
	@echo "records: demo/records.jsonl   page: demo/records.html"

test: .venv/installed-tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shelfwise schema check prompts/schemas > /dev/null
	$(BIN)/shelfwise prompts lint --schema prompts/schemas --offers prompts/samples/catalogue.jsonl
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# The lock is complete, so pip need not resolve; its resolver would bring a torchvision that breaks a CPU torch.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	sed '/^# tests/,$$d' requirements.lock > .venv/run.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r .venv/run.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

.venv/installed-tests: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	touch $@

COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --no-header --no-annotate --upgrade --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 --override .venv/left-out.txt $(addprefix --find-links ,$(PIP_FIND_LINKS)) \
	--extra cpu --extra huggingface --extra finetune --extra eval --extra metrics --extra ray --extra service

lock: .venv/installed-tests
	printf '%s ; python_version < "3"\n' torchvision torchaudio torchcodec > .venv/left-out.txt
	$(COMPILE) | sed 's/+cpu$$//' | sort > .venv/run.txt
	$(COMPILE) --extra dev | sed 's/+cpu$$//' | sort > .venv/all.txt
	(cat .venv/run.txt; echo '# tests'; comm -13 .venv/run.txt .venv/all.txt) > requirements.lock

clean:
	rm -rf .venv demo build .mypy_cache .ruff_cache .pytest_cache
