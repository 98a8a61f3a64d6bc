"""Objects of every data type with chains of versions, of bytes that programs really made.

An object's kind, size and dirty share are drawn once and stay; version v is version v - 1 after some more work. One
module for each data type says how its kinds are made; ``made`` draws objects by the mix, ``directory`` reads chains
that somebody else made.
"""

from __future__ import annotations

from dwcp.fleet.payloads.directory import directory_objects
from dwcp.fleet.payloads.made import MAKERS, made_objects
from dwcp.fleet.payloads.objects import Maker, PayloadError, PayloadObject, Spec

__all__ = ["MAKERS", "Maker", "PayloadError", "PayloadObject", "Spec", "directory_objects", "made_objects"]
