import os as _os
__path__ = list(__path__)
_root = _os.path.dirname(_os.path.dirname(_os.path.abspath(__file__)))
if _os.path.isfile(_os.path.join(_root, "converters", "__init__.py")): __path__.append(_root)
