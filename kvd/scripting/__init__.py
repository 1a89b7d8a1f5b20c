"""Lua scripts: the sandboxed interpreter, its libraries, and the cache of compiled scripts."""
