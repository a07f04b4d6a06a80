//! Tables of each half, and a property of both halves over a link that breaks.

use bytes::BytesMut;
use proptest::prelude::*;

use super::{
    send::{MANY_CHUNKS, Piece},
    *,
};

const WINDOW: u64 = 1024;

/// Everything that can be sent now, as stream, offset and bytes.
fn sent<const N: usize>(send: &mut SendStreams<N>) -> Vec<(usize, u64, Vec<u8>)> {
    let mut pieces = Vec::new();
    while let Some(piece) = send.poll() {
        pieces.push((piece.stream, piece.offset, piece.data.to_vec()));
    }
    pieces
}

fn push<const N: usize>(send: &mut SendStreams<N>, stream: usize, data: &[u8]) {
    send.push(stream, BytesMut::from(data));
}

// ----- sending

#[test]
fn bytes_are_sent_in_order_over_all_streams() {
    let mut send = SendStreams::<2>::new(WINDOW);
    for (stream, data) in [(0, "a"), (0, "b"), (1, "c"), (0, "d")] {
        push(&mut send, stream, data.as_bytes());
    }
    let expected = [
        (0, 0, b"ab".to_vec()),
        (1, 0, b"c".to_vec()),
        (0, 2, b"d".to_vec()),
    ];
    assert_eq!(sent(&mut send), expected);
    assert_eq!(sent(&mut send), [], "once on each link");
    // One stream is acknowledged far ahead of the other.
    send.handle_ack([3, 0]);
    assert_eq!(send.kept(), 1);
    send.resume(1, 0);
    assert_eq!(sent(&mut send), [(1, 0, b"c".to_vec())]);
}

#[test]
fn a_new_link_sends_from_where_the_peer_is() {
    let mut send = SendStreams::<1>::new(WINDOW);
    push(&mut send, 0, b"abcdef");
    send.finish(0);
    sent(&mut send);
    send.handle_ack([2]);
    for (offset, rest) in [(2, "cdef"), (4, "ef"), (0, "cdef"), (99, "")] {
        assert!(!send.resume(0, offset), "what is there is kept");
        let expected = (0, 6 - rest.len() as u64, rest.as_bytes().to_vec());
        assert_eq!(sent(&mut send), [expected]);
    }
    send.handle_ack([6]);
    assert!(send.resume(0, 5), "what is there is gone");
    let eof = Piece {
        stream: 0,
        offset: 6,
        data: b"",
        eof: true,
    };
    assert_eq!(send.poll(), Some(eof));
    assert_eq!(send.poll(), None);
}

#[test]
fn the_end_of_a_stream_is_sent_with_its_last_bytes() {
    let mut send = SendStreams::<1>::new(4);
    push(&mut send, 0, b"abcdef");
    send.finish(0);
    let eof = send.poll().map(|piece| (piece.data.len(), piece.eof));
    assert_eq!(eof, Some((4, false)));
    assert_eq!(send.poll(), None, "the window is full");
    send.handle_ack([4]);
    let eof = send.poll().map(|piece| (piece.data.len(), piece.eof));
    assert_eq!(eof, Some((2, true)));
    assert_eq!(send.poll(), None);
}

#[test]
fn acknowledgements_past_what_was_sent_count_up_to_there() {
    let mut send = SendStreams::<1>::new(4);
    push(&mut send, 0, b"abcdef");
    send.handle_ack([u64::MAX]);
    assert_eq!(send.acked(), [0]);
    send.poll();
    send.handle_ack([u64::MAX]);
    send.handle_ack([1]);
    assert_eq!(send.acked(), [4], "never less than before");
    assert_eq!((send.sent(), send.end()), ([4], [6]));
}

#[test]
fn a_piece_is_cut_between_code_points() {
    let mut send = SendStreams::<1>::new(u64::MAX);
    let data = "é".repeat(MAX_PIECE);
    push(&mut send, 0, b"x");
    push(&mut send, 0, data.as_bytes());
    let pieces = sent(&mut send);
    assert!(pieces.iter().all(|(.., data)| data.len() <= MAX_PIECE));
    assert!(pieces.iter().all(|(.., data)| str::from_utf8(data).is_ok()));
    let joined: Vec<_> = pieces.into_iter().flat_map(|(.., data)| data).collect();
    assert_eq!(joined, ["x", &data].concat().into_bytes());
}

#[test]
fn small_pushes_are_kept_in_few_chunks() {
    let mut trickle = SendStreams::<2>::new(u64::MAX);
    for offset in 0..10_000 {
        push(&mut trickle, 0, b"x");
        assert_eq!(sent(&mut trickle), [(0, offset, b"x".to_vec())]);
    }
    assert_eq!(trickle.chunks(), 1);
    let mut alternate = SendStreams::<2>::new(u64::MAX);
    let bytes: Vec<_> = (0..10_000u32).map(|it| it as u8).collect();
    for &byte in &bytes {
        push(&mut alternate, 0, &[byte]);
        push(&mut alternate, 1, &[!byte]);
    }
    assert!(alternate.chunks() <= MANY_CHUNKS + 2);
    let mut arrived = [Vec::new(), Vec::new()];
    for (stream, offset, data) in sent(&mut alternate) {
        assert_eq!(offset, arrived[stream].len() as u64);
        arrived[stream].extend(data);
    }
    let inverted: Vec<_> = bytes.iter().map(|byte| !byte).collect();
    assert_eq!(arrived, [bytes, inverted]);
    alternate.handle_ack([10_000; 2]);
    assert_eq!(alternate.chunks(), 0);
}

#[test]
fn abandoned_streams_keep_and_send_nothing() {
    let mut send = SendStreams::<1>::new(WINDOW);
    push(&mut send, 0, b"abc");
    send.poll();
    send.abandon();
    push(&mut send, 0, b"d");
    send.finish(0);
    send.resume(0, 0);
    assert_eq!(send.poll(), None);
    assert!(send.is_closed(0));
    assert_eq!((send.chunks(), send.kept()), (0, 3), "which were not taken");
}

// ----- receiving

#[test]
fn each_byte_is_new_once_and_missing_bytes_are_counted() {
    let mut recv = RecvStreams::new(WINDOW, [0, 0]);
    assert_eq!(recv.receive(0, 0, 10), (0, 0));
    assert_eq!(recv.receive(0, 4, 10), (0, 6), "six of ten came before");
    assert_eq!(recv.receive(0, 0, 14), (0, 14), "all of it came before");
    assert_eq!(recv.receive(0, 20, 5), (6, 0), "six never came");
    assert_eq!(
        recv.receive(1, 3, 0),
        (3, 0),
        "also where no bytes are behind"
    );
    assert_eq!(recv.received(), [25, 3]);
}

#[test]
fn a_piece_that_counts_only_in_order_leaves_no_gap() {
    let mut recv = RecvStreams::new(4, [0]);
    assert_eq!(recv.skip_known(0, 0, 3), Some(0));
    assert!(recv.accept(0, 3));
    assert_eq!(recv.skip_known(0, 4, 1), None, "byte 3 is missing");
    assert_eq!(recv.skip_known(0, 1, 1), None, "it ends before byte 3");
    assert_eq!(recv.skip_known(0, 1, 2), Some(2));
    assert_eq!(recv.skip_known(0, 1, 4), Some(2));
    assert_eq!(recv.skip_known(0, u64::MAX, 4), None);
    assert!(!recv.accept(0, 2), "past the window");
    recv.take([3]);
    assert!(!recv.accept(0, 2), "the peer does not know that yet");
    assert_eq!(recv.poll_ack(1), Some([3]));
    assert!(recv.accept(0, 2));
}

#[test]
fn bytes_past_the_window_are_dropped_and_counted() {
    let mut recv = RecvStreams::new(WINDOW, [0, 0]);
    assert_eq!(recv.receive(0, 0, 1000), (0, 0));
    assert_eq!(recv.receive(1, 0, 1000), (1000, 1000));
    recv.end(Some([1000, 1000]));
    assert!(recv.is_complete(), "they are not waited for");
    assert!(!recv.is_taken());
    recv.take([1000, 1000]);
    assert!(recv.is_taken());
}

#[test]
fn an_acknowledgement_is_repeated_once_on_each_link() {
    let mut recv = RecvStreams::new(WINDOW, [0]);
    recv.resume();
    assert_eq!(recv.poll_ack(1), None, "nothing was taken");
    recv.receive(0, 0, 10);
    recv.take([10]);
    assert_eq!(recv.poll_ack(11), None);
    assert_eq!(recv.poll_ack(10), Some([10]));
    assert_eq!(recv.poll_ack(1), None);
    recv.resume();
    assert_eq!(recv.poll_ack(1), Some([10]));
    assert_eq!(recv.poll_ack(1), None);
}

#[test]
fn abandoned_streams_take_everything() {
    let mut recv = RecvStreams::new(WINDOW, [0, 0]);
    recv.receive(0, 0, 1000);
    recv.abandon();
    assert!(recv.is_taken());
    assert_eq!(recv.receive(0, 1000, 5000), (0, 5000));
    assert_eq!(recv.receive(1, 7, 5), (0, 5));
    assert!(recv.is_taken());
    assert_eq!(recv.poll_ack(1), Some([6000, 12]));
}

#[test]
fn an_end_without_lengths_is_what_has_arrived() {
    let mut recv = RecvStreams::new(WINDOW, [0, 0]);
    recv.receive(0, 0, 10);
    assert!(!recv.is_complete());
    recv.end(Some([20, 0]));
    assert!(recv.is_ended() && !recv.is_complete());
    recv.end(None);
    assert!(recv.is_complete());
}

#[test]
fn maximum_offsets_do_not_panic() {
    let mut recv = RecvStreams::new(WINDOW, [0, 0]);
    assert_eq!(recv.receive(0, u64::MAX, 10), (u64::MAX, 0));
    assert_eq!(recv.receive(0, u64::MAX - 1, 10), (0, 1));
    recv.take([u64::MAX; 2]);
    recv.end(Some([u64::MAX; 2]));
    assert_eq!(recv.received(), [u64::MAX, 0]);
    let mut send = SendStreams::<2>::new(u64::MAX);
    push(&mut send, 0, b"abc");
    send.resume(0, u64::MAX);
    send.handle_ack([u64::MAX; 2]);
    assert_eq!(send.kept(), 0);
}

// ----- both

/// A step between the two halves.
#[derive(Clone, Debug)]
enum Step {
    Push(usize, Vec<u8>),
    /// Up to this many messages arrive.
    Pass(usize),
    Take(usize, u64),
    Ack,
    /// The link breaks, and this many messages in flight are lost.
    Cut(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 0usize..2;
    let text = prop_oneof!["[a-zé€😀]{0,40}", Just("x".repeat(700))];
    prop_oneof![
        3 => (stream.clone(), text).prop_map(|(stream, text)| Step::Push(stream, text.into())),
        3 => (0usize..5).prop_map(Step::Pass),
        2 => (stream, 0u64..600).prop_map(|(stream, bytes)| Step::Take(stream, bytes)),
        2 => Just(Step::Ack),
        1 => (0usize..5).prop_map(Step::Cut),
    ]
}

proptest! {
    #[test]
    fn each_byte_arrives_once_over_links_that_break(steps in prop::collection::vec(step(), 0..80)) {
        let mut send = SendStreams::<2>::new(WINDOW);
        let mut recv = RecvStreams::new(WINDOW, [0, 0]);
        let mut pushed = [Vec::new(), Vec::new()];
        let mut arrived = [Vec::new(), Vec::new()];
        let end = [Step::Cut(9), Step::Pass(999), Step::Take(0, 9999), Step::Take(1, 9999), Step::Ack];
        let end = std::iter::repeat_n(end, 100).flatten();
        for step in steps.into_iter().chain(end) {
            match step {
                Step::Push(stream, data) => {
                    push(&mut send, stream, &data);
                    pushed[stream].extend(data);
                }
                Step::Pass(most) => {
                    for _ in 0..most {
                        let Some(piece) = send.poll() else { break };
                        let (gap, known) = recv.receive(piece.stream, piece.offset, piece.data.len());
                        prop_assert_eq!(gap, 0);
                        arrived[piece.stream].extend_from_slice(&piece.data[known..]);
                    }
                }
                Step::Take(stream, bytes) => {
                    let mut taken = recv.taken();
                    taken[stream] += bytes;
                    recv.take(taken);
                }
                Step::Ack => {
                    if let Some(offsets) = recv.poll_ack(recv.ack_step()) {
                        send.handle_ack(offsets);
                    }
                }
                Step::Cut(most) => {
                    for _ in 0..most {
                        send.poll();
                    }
                    recv.resume();
                    for (stream, received) in recv.received().into_iter().enumerate() {
                        prop_assert!(!send.resume(stream, received));
                    }
                }
            }
            let untaken = distance(recv.taken(), recv.received());
            prop_assert!(untaken <= WINDOW, "the receiver keeps at most the window");
        }
        prop_assert_eq!(&arrived, &pushed);
        let end = pushed.map(|pushed| pushed.len() as u64);
        prop_assert_eq!(recv.taken(), end);
    }
}
