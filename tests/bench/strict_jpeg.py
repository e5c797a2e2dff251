"""A strict reader of JPEG's coded data, apart from libjpeg's: it decodes every coefficient and forgives nothing.

Pure Python, and a hundred times slower.
"""

from __future__ import annotations

import math
import re
import struct


class Fault(Exception):
    """What the standard (ITU-T T.81) does not allow."""


class _Bits:
    def __init__(self, data: bytes):
        data = data.replace(b"\xff\x00", b"\xff")
        self.bits = "".join(f"{byte:08b}" for byte in data)
        self.place = 0

    def read(self, count: int) -> int:
        end = self.place + count
        if end > len(self.bits):
            raise Fault("data end early")
        value = int(self.bits[self.place : end], 2) if count else 0
        self.place = end
        return value

    def symbol(self, table: dict[str, int]) -> int:
        for length in range(1, 17):
            code = self.bits[self.place : self.place + length]
            if code in table:
                if len(code) < length:
                    break
                self.place += length
                return table[code]
        raise Fault("no such code" if self.place + 16 <= len(self.bits) else "data end early")

    def signed(self, size: int) -> int:
        value = self.read(size)
        return value if not size or value >> (size - 1) else value - (1 << size) + 1

    def finish(self) -> None:
        rest = self.bits[self.place :]
        if len(rest) >= 8:
            raise Fault("bytes left over")
        if "0" in rest:
            raise Fault("padding is not ones")


def _tables(body: bytes, tables: dict[int, dict[str, int]]) -> None:
    while body:
        counts, code, place, table = body[1:17], 0, 17, {}
        for length, count in enumerate(counts, 1):
            for _ in range(count):
                table[f"{code:0{length}b}"] = body[place]
                code, place = code + 1, place + 1
            code <<= 1
        tables[body[0]] = table
        body = body[place:]


def fault(data: bytes) -> str | None:
    """What is wrong with a JPEG (Huffman-coded, 8 bits, baseline or progressive); None where nothing is."""
    try:
        _check(data)
    except Fault as found:
        return str(found)
    except (IndexError, KeyError, struct.error) as error:
        return f"header: {error!r}"
    return None


def _check(data: bytes) -> None:
    huffman: dict[int, dict[str, int]] = {}
    quantum: dict[int, int] = {}  # of the DC coefficients
    frame: dict[int, dict] = {}
    restart, place, progressive = 0, 2, False
    while True:
        if data[place] != 0xFF:
            raise Fault("bytes between segments")
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker == 0xD9:
            break
        end = place + 2 + struct.unpack_from(">H", data, place + 2)[0]
        body = data[place + 4 : end]
        if marker == 0xC4:
            _tables(body, huffman)
        elif marker == 0xDB:
            while body:
                wide = body[0] >> 4
                quantum[body[0] & 15] = struct.unpack_from(">H" if wide else ">B", body, 1)[0]
                body = body[65 + 64 * bool(wide) :]
        elif marker == 0xDD:
            restart = struct.unpack(">H", body)[0]
        elif marker in (0xC0, 0xC1, 0xC2):
            progressive = marker == 0xC2
            _, height, width, count = struct.unpack_from(">BHHB", body)
            parts = [body[6 + 3 * n : 9 + 3 * n] for n in range(count)]
            most_h, most_v = max(p[1] >> 4 for p in parts), max(p[1] & 15 for p in parts)
            mcus = (-(-width // (8 * most_h)), -(-height // (8 * most_v)))
            for name, sampling, table in parts:
                h, v = sampling >> 4, sampling & 15
                size = (math.ceil(math.ceil(width * h / most_h) / 8), math.ceil(math.ceil(height * v / most_v) / 8))
                frame[name] = {"h": h, "v": v, "size": size, "quantum": table, "blocks": {}}
        elif marker == 0xDA:
            stop = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]").search(data, end)
            if not stop:
                raise Fault("data end early")
            coded = data[end : stop.start()]
            _scan(body, coded, frame, mcus, huffman, quantum, restart, progressive)
            end = stop.start()
        place = end
    if not frame:
        raise Fault("no frame")


def _scan(body, coded, frame, mcus, huffman, quantum, restart, progressive):
    names = [(body[1 + 2 * n], body[2 + 2 * n]) for n in range(body[0])]
    first, last, bits = body[-3:]
    high, low = bits >> 4, bits & 15
    if len(names) == 1:
        part = frame[names[0][0]]
        across, down = part["size"]
        units = [[(names[0], x, y)] for y in range(down) for x in range(across)]
    else:
        across, down = mcus
        units = [
            [
                (name, x * frame[name[0]]["h"] + dx, y * frame[name[0]]["v"] + dy)
                for name in names
                for dy in range(frame[name[0]]["v"])
                for dx in range(frame[name[0]]["h"])
            ]
            for y in range(down)
            for x in range(across)
        ]
    pieces = re.split(rb"\xff([\xd0-\xd7])", coded)
    segments, markers = pieces[::2], pieces[1::2]
    length = restart or len(units)
    if len(segments) != -(-len(units) // length):
        raise Fault("restart markers")
    if any(marker[0] != 0xD0 + n % 8 for n, marker in enumerate(markers)):
        raise Fault("restart markers")
    for n, segment in enumerate(segments):
        stream, previous, run = _Bits(segment), {name[0]: 0 for name in names}, 0
        for unit in units[n * length : (n + 1) * length]:
            for (name, tables), x, y in unit:
                block = frame[name]["blocks"].setdefault((x, y), {})
                dc, ac = huffman.get(tables >> 4), huffman.get(16 + (tables & 15))
                if first == 0 and high:
                    stream.read(1)
                elif first == 0:
                    size = stream.symbol(dc)
                    if size > 11:
                        raise Fault("coefficient out of range")
                    previous[name] += stream.signed(size)
                    step = quantum[frame[name]["quantum"]]
                    if abs(previous[name] << low) * step > 1024 + (step << low):
                        raise Fault("brightness out of range")
                if last == 0:
                    continue
                if progressive and high:
                    run = _refine(stream, block, ac, first, last, run)
                else:
                    run = _first(stream, block, ac, max(first, 1), last, run, progressive)
        if run:
            raise Fault("run beyond the end")
        stream.finish()


def _first(stream, block, ac, place, last, run, progressive) -> int:
    if run:
        return run - 1
    while place <= last:
        symbol = stream.symbol(ac)
        zeros, size = symbol >> 4, symbol & 15
        if size:
            place += zeros
            if place > last:
                raise Fault("more than 64 coefficients")
            if size > 10:
                raise Fault("coefficient out of range")
            stream.read(size)
            block[place] = True
            place += 1
        elif zeros == 15:
            place += 16
            if place > last + 1:
                raise Fault("more than 64 coefficients")
        elif progressive:
            return (1 << zeros) + stream.read(zeros) - 1
        elif zeros:
            raise Fault("no such code")
        else:
            break
    return 0


def _refine(stream, block, ac, place, last, run) -> int:
    if not run:
        while place <= last:
            symbol = stream.symbol(ac)
            zeros, size = symbol >> 4, symbol & 15
            if size > 1:
                raise Fault("coefficient out of range")
            if size:
                stream.read(1)
            elif zeros < 15:
                run = (1 << zeros) + stream.read(zeros)
                break
            while place <= last:
                if block.get(place):
                    stream.read(1)
                elif zeros == 0:
                    break
                else:
                    zeros -= 1
                place += 1
            if size:
                if place > last:
                    raise Fault("more than 64 coefficients")
                block[place] = True
            elif zeros:
                raise Fault("more than 64 coefficients")
            place += 1
    if run:
        for k in range(place, last + 1):
            if block.get(k):
                stream.read(1)
        return run - 1
    return 0
