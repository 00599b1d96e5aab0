"""Reading clip files: the only package that reads with PyAV."""

from k700_text.media.decode.indexed import PacketReader
from k700_text.media.decode.reader import ClipReader
from k700_text.media.decode.tables import check_packets, packets_of

__all__ = ["ClipReader", "PacketReader", "check_packets", "packets_of"]
