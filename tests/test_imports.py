import subprocess
import sys

import extractor

HEAVY = {
    "torch",
    "vllm",
    "transformers",
    "ray",
    "fastapi",
    "uvicorn",
    "outlines",
    "openpyxl",
    "phonenumbers",
    "pyarrow",
    "sqlalchemy",
}


def test_the_library_imports_without_anything_heavy():
    code = f"import extractor, extractor.cli, extractor.client, sys; print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_surface():
    assert sorted(extractor.__all__) == [
        "Attribute",
        "AttributeSchema",
        "AttributeValue",
        "DemonstrationPool",
        "Evidence",
        "Extraction",
        "Extractor",
        "Failure",
        "LabelledOffer",
        "ProductOffer",
        "ShelfwiseError",
        "create_engine",
        "load_calibration",
        "load_schema",
        "load_schemas",
        "load_template",
    ]


def test_a_missing_extra_names_the_install_command():
    code = (
        "import sys; sys.modules['vllm'] = None\n"
        "from extractor import create_engine, ShelfwiseError\n"
        "try: create_engine('vllm')\n"
        "except ShelfwiseError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "vllm is not installed; install it with: pip install 'shelfwise[vllm]'" in done.stdout
