"""The mark that a picture was completed by a trained network, in XMP: IPTC's DigitalSourceType.

IPTC Photo Metadata Standard 2023.2; Regulation (EU) 2024/1689 (the AI Act), Article 50, asks for such a mark.
"""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

VALUE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
NAME = f"{{{IPTC}}}DigitalSourceType"
PACKET = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>', '<?xpacket end="w"?>'
LONGEST = 1 << 20  # bytes of a packet that is read


def marked(packet: bytes) -> bytes:
    """An XMP packet with the mark: the photo's own with it, or where that is none or cannot be read, a new one."""
    tree = _read(packet) if 0 < len(packet) <= LONGEST else None
    if tree is None:
        tree = ElementTree.fromstring(
            f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about=""/></rdf:RDF>'
            "</x:xmpmeta>"
        )
    for prefix, space in (("x", "adobe:ns:meta/"), ("rdf", RDF), ("Iptc4xmpExt", IPTC)):
        ElementTree.register_namespace(prefix, space)
    about = tree.findall(f".//{{{RDF}}}Description")
    for one in about:
        one.attrib.pop(NAME, None)
        for old in one.findall(NAME):
            one.remove(old)
    about[0].set(NAME, VALUE)
    begin, end = PACKET
    return f"{begin}\n{ElementTree.tostring(tree, 'unicode')}\n{end}".encode()


def _read(packet: bytes) -> ElementTree.Element | None:
    """The packet's XML with its prefixes kept, or None where it is none."""
    if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:  # XMP has none
        return None
    try:
        spaces = [space for _, space in ElementTree.iterparse(io.BytesIO(packet), ["start-ns"])]
        for prefix, space in spaces:
            if prefix and not re.fullmatch(r"ns\d+", prefix):  # which ElementTree keeps for itself
                ElementTree.register_namespace(prefix, space)
        tree = ElementTree.fromstring(packet)
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    return tree if tree.find(f".//{{{RDF}}}Description") is not None else None
