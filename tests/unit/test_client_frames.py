"""A container's log as Docker sends it: frames, cut anywhere."""

from hypothesis import given
from hypothesis import strategies as st

from flower_agent.docker import client


@given(st.lists(st.binary(max_size=20)), st.integers(1, 40))
def test_frames_give_their_text_however_they_are_cut(texts, size):
    sent = b"".join(b"\x01\0\0\0" + len(text).to_bytes(4, "big") + text for text in texts)
    chunks = [sent[at : at + size] for at in range(0, len(sent), size)]
    assert b"".join(client._unframed(chunks)) == b"".join(texts)


def test_a_frame_that_is_cut_off_gives_what_came():
    assert b"".join(client._unframed([b"\x01\0\0\0\0\0\0\x09abc"])) == b"abc"
    assert b"".join(client._unframed([b"\x01\0\0"])) == b""
