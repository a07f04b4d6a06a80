"""Tables of `SendStream` and `RecvStream`, and a property of both over links that break."""

import random
import unittest

from program.streams import MAX_PIECE, RecvStream, SendStream, character_boundary


def sent(stream, room=1 << 30, whole_characters=False):
    """Everything that can be sent now: offsets, bytes and ends."""
    pieces = []
    while True:
        left = room - stream.unacked
        piece = stream.next_piece(left, whole_characters)
        if piece is None:
            return pieces
        offset, data, end = piece
        pieces.append((offset, bytes(data), end))


class SendStreamTest(unittest.TestCase):
    def test_bytes_are_sent_once_on_each_link(self):
        stream = SendStream()
        stream.push(b"abc")
        self.assertEqual(sent(stream), [(0, b"abc", False)])
        self.assertEqual(sent(stream), [])
        stream.push(b"d")
        self.assertEqual(sent(stream), [(3, b"d", False)])
        stream.resume(0)
        self.assertEqual(b"".join(data for _, data, _ in sent(stream)), b"abcd")

    def test_a_new_link_continues_where_the_peer_is(self):
        stream = SendStream()
        stream.push(b"abcdef")
        stream.finish()
        sent(stream)
        stream.ack(2)
        for offset, expected in ((2, (2, b"cdef")), (4, (4, b"ef")), (0, (2, b"cdef"))):
            stream.resume(offset)
            self.assertEqual(sent(stream), [expected + (True,)])
        stream.resume(99)
        self.assertEqual(sent(stream), [(6, b"", True)])

    def test_a_peer_that_lost_acknowledged_bytes_learns_the_position(self):
        stream = SendStream()
        stream.push(b"abc")
        sent(stream)
        stream.ack(3)
        stream.resume(1)
        self.assertEqual(sent(stream), [(3, b"", False)])
        stream.resume(3)
        self.assertEqual(sent(stream), [])

    def test_the_end_comes_with_the_last_bytes(self):
        stream = SendStream()
        stream.push(b"abcdef")
        stream.finish()
        self.assertEqual(sent(stream, room=4), [(0, b"abcd", False)])
        stream.ack(4)
        self.assertEqual(sent(stream, room=4), [(4, b"ef", True)])

    def test_an_end_without_bytes_is_sent_alone(self):
        stream = SendStream()
        stream.push(b"a")
        sent(stream)
        stream.finish()
        self.assertEqual(sent(stream), [(1, b"", True)])
        self.assertEqual(sent(stream), [])

    def test_acknowledgements_never_decrease_and_end_at_what_was_sent(self):
        stream = SendStream()
        stream.push(b"abcdef")
        stream.ack(99)
        self.assertEqual(stream.acked, 0)
        sent(stream, room=4)
        stream.ack(99)
        self.assertEqual(stream.acked, 4)
        stream.ack(1)
        self.assertEqual(stream.acked, 4)
        self.assertEqual(stream.kept, 2)

    def test_pieces_are_limited_and_keep_code_points_whole(self):
        stream = SendStream()
        text = ("x" + "é" * MAX_PIECE).encode()
        stream.push(text)
        pieces = [data for _, data, _ in sent(stream, whole_characters=False)]
        self.assertTrue(all(len(data) <= MAX_PIECE for data in pieces))
        self.assertEqual(b"".join(pieces), text)
        stream = SendStream()
        stream.push("xé€".encode())
        self.assertEqual(sent(stream, room=2, whole_characters=True), [(0, b"x", False)])
        stream.ack(1)
        self.assertEqual(sent(stream, room=1, whole_characters=True), [])
        self.assertEqual(sent(stream, room=4, whole_characters=True), [(1, "é".encode(), False)])

    def test_many_small_pushes_take_few_chunks(self):
        stream = SendStream()
        for _ in range(10_000):
            stream.push(b"x")
            sent(stream)
        self.assertLessEqual(len(stream._sent._chunks), 2)

    def test_dropped_output_counts_as_acknowledged(self):
        stream = SendStream()
        stream.push(b"abc")
        stream.ack_all()
        self.assertEqual((stream.acked, stream.end, stream.kept), (3, 3, 0))

    def test_an_incomplete_code_point_is_found_at_the_end(self):
        table = [
            (b"", 0),
            (b"a", 1),
            (b"a\xc3", 1),
            ("é".encode(), 2),
            (b"a\xe2\x82", 1),
            ("a€".encode(), 4),
            (b"\xf0\x9f\x98", 0),
            ("😀".encode(), 4),
            (b"\x80\x80\x80\x80", 4),
            (b"\xff", 0),
            (b"\xffa", 2),
        ]
        for data, expected in table:
            self.assertEqual(character_boundary(data), expected, data)


class RecvStreamTest(unittest.TestCase):
    def receive(self, stream, offset, data):
        new = stream.new_part(offset, data)
        return new is not None and stream.accept(new)

    def test_each_byte_is_taken_once_and_in_order(self):
        stream = RecvStream(100)
        self.assertTrue(self.receive(stream, 0, b"abc"))
        self.assertIsNone(stream.new_part(4, b"e"), "a byte is missing")
        self.assertIsNone(stream.new_part(0, b"ab"), "later bytes are here")
        self.assertEqual(stream.new_part(1, b"bcd"), b"d")
        self.assertEqual(stream.new_part(3, b""), b"")
        self.assertEqual(stream.received, 3)

    def test_bytes_beyond_the_window_are_refused(self):
        stream = RecvStream(4)
        self.assertTrue(self.receive(stream, 0, b"abc"))
        self.assertFalse(self.receive(stream, 3, b"de"))
        stream.take(3)
        self.assertFalse(self.receive(stream, 3, b"de"), "the peer doesn't know of the room")
        self.assertEqual(stream.next_ack(), 3)
        self.assertTrue(self.receive(stream, 3, b"de"))

    def test_an_acknowledgement_is_repeated_on_a_new_link(self):
        stream = RecvStream(100)
        stream.resume()
        self.assertIsNone(stream.next_ack())
        self.receive(stream, 0, b"abc")
        stream.take(2)
        self.assertEqual(stream.next_ack(), 2)
        self.assertIsNone(stream.next_ack())
        stream.resume()
        self.assertEqual(stream.next_ack(), 2)

    def test_bytes_that_the_consumer_refuses_stay_untaken(self):
        stream = RecvStream(100)
        self.receive(stream, 0, b"abc")
        stream.abandon()
        self.assertEqual((stream.waiting, stream.first(), stream.next_ack()), (3, b"", None))


class BothTest(unittest.TestCase):
    WINDOW = 1000

    def test_each_byte_arrives_once_over_links_that_break(self):
        for seed in range(60):
            self.run_one(random.Random(seed))

    def run_one(self, chance):
        send, receive = SendStream(), RecvStream(self.WINDOW)
        pushed, arrived = bytearray(), bytearray()
        for _ in range(300):
            step = chance.randrange(6)
            if step == 0:
                data = bytes(chance.randrange(256) for _ in range(chance.randrange(300)))
                send.push(data)
                pushed += data
            elif step in (1, 2):
                self.move_piece(send, receive)
            elif step == 3 and receive.first():
                count = chance.randint(1, len(receive.first()))
                arrived += receive.first()[:count]
                receive.take(count)
            elif step == 4:
                send.ack(receive.next_ack() or 0)
            elif step == 5:
                send.next_piece(self.WINDOW, False)
                send.resume(receive.received)
                receive.resume()
            self.assertLessEqual(receive.waiting, self.WINDOW)
        send.resume(receive.received)
        while arrived != pushed:
            self.move_piece(send, receive)
            arrived += receive.first()
            receive.take(len(receive.first()))
            send.ack(receive.next_ack() or 0)
        send.ack(receive.taken)
        self.assertEqual(send.kept, 0)

    def move_piece(self, send, receive):
        piece = send.next_piece(self.WINDOW - send.unacked, False)
        if piece is not None:
            new = receive.new_part(piece[0], bytes(piece[1]))
            self.assertTrue(receive.accept(new))


if __name__ == "__main__":
    unittest.main()
