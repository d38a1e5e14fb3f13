from importlib import import_module
from pathlib import Path

PACKAGES = (
    "simvtp",
    *(
        f"simvtp.{name}"
        for name in (
            *("config", "conversion", "data", "decoders", "encoders", "layers", "losses"),
            *("masking", "metrics", "parts", "tasks", "trainer", "training"),
        )
    ),
)
LISTED = Path(__file__).with_name("public_names.txt")


def public_names() -> list[str]:
    return sorted(f"{package}.{name}" for package in PACKAGES for name in exported(package))


def exported(package: str) -> list[str]:
    module = import_module(package)
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == package
        ]
    for name in names:
        getattr(module, name)
    return list(names)


def test_no_public_name_comes_or_goes_unsaid():
    """A name that goes breaks somebody's import; see CONTRIBUTING.md for how it may."""
    listed, there = set(LISTED.read_text().split()), set(public_names())
    assert not listed - there, "public names are gone: deprecate them first (CONTRIBUTING.md)"
    assert not there - listed, f"list the new public names in {LISTED.name}"
