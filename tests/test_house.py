"""The shape of the house: sizes of modules and folders, one class a name, one folder a context."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "usage_tasks"
MODULE_LINES_MAX = 400
FOLDER_MODULES_MAX = 16
DOMAIN_MODULES_MAX = 40
"""The domain reads well flat."""


def modules() -> list[Path]:
    found = [file for file in PACKAGE.rglob("*.py") if "versions" not in file.parts]
    assert len(found) > 250
    return found


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in modules()}
    long = {name: length for name, length in lengths.items() if length > MODULE_LINES_MAX}
    assert long == {}, f"cut what has more than {MODULE_LINES_MAX} lines"


def test_no_folder_holds_more_modules_than_a_reader_can_scan() -> None:
    counts: dict[str, int] = defaultdict(int)
    for file in modules():
        counts[str(file.parent.relative_to(PACKAGE))] += file.name != "__init__.py"
    largest = {"domain": DOMAIN_MODULES_MAX}
    full = {name: n for name, n in counts.items() if n > largest.get(name, FOLDER_MODULES_MAX)}
    assert full == {}, "cut these folders by context (docs/adr/0023)"


def test_no_class_name_stands_twice_outside_the_stand_in_for_stripe() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for file in modules():
        if "stripe_simulator" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(file.relative_to(ROOT)))
    repeated = {name: files for name, files in places.items() if len(files) > 1}
    assert repeated == {}, "give each of these classes a name of its own (docs/glossary.md)"


def test_a_package_says_what_it_owns() -> None:
    packages = [file for file in modules() if file.name == "__init__.py"]
    assert [str(file) for file in packages if not ast.get_docstring(ast.parse(file.read_text()))] == []


def test_a_task_stands_in_the_folder_of_its_queue() -> None:
    misplaced = []
    for file in (PACKAGE / "tasks").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "task":
                names = [
                    each.value.value
                    for each in node.keywords
                    if each.arg == "name" and isinstance(each.value, ast.Constant)
                ]
                place = file.parent.name if file.parent.name != "tasks" else file.stem
                misplaced += [f"{name!r} in {file.name}" for name in names if str(name).partition(".")[0] != place]
    assert misplaced == [], "a task stands in the folder, or the module, of its queue"
