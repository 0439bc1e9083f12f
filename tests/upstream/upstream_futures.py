"""The classes of test.test_concurrent_futures, and once more those for spawn, without their mp_context.

A worker may import this to find one of the classes; they have to be there by name.
"""

import importlib
import pkgutil
import types
import unittest


def modules() -> list[types.ModuleType]:
    """What has the tests: a module, or the modules of a package, as the version has it."""
    package = importlib.import_module("test.test_concurrent_futures")
    if not hasattr(package, "__path__"):
        return [package]
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    chosen = [name for name in names if name.startswith("test_") and "interpreter" not in name]
    return [importlib.import_module(f"{package.__name__}.{name}") for name in chosen]


def cases() -> list[type[unittest.TestCase]]:
    found = []
    for module in modules():
        for name, value in list(vars(module).items()):
            case = isinstance(value, type) and issubclass(value, unittest.TestCase)
            if not case or value.__module__ != module.__name__ or name == "BaseTestCase" or "Interpreter" in name:
                continue
            found.append(value)
            if name.startswith("ProcessPoolSpawn"):
                other = name.replace("Spawn", "Zygote")
                globals()[other] = type(other, (value,), {"__module__": __name__, "no_context": True})
                found.append(globals()[other])
    return found


CASES = cases()
