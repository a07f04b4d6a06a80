//! Wrapped code (v1): trailers cut into any pieces, and output that resembles a trailer.

use bytes::Bytes;
use proptest::prelude::*;

use super::{TrailerFilter, wrap::*};
use crate::{machine::ProcessEnd, protocol::ExecOptions};

const NONCE: Nonce = Nonce(0x0123_4567_89ab_cdef_0011_2233_4455_6677);

fn trailer(ending: &str) -> Vec<u8> {
    format!("\u{1e}actix-sandbox {NONCE} {ending}\u{1e}").into_bytes()
}

/// The output of the filter, and the end that it found.
fn filter<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Option<ProcessEnd>) {
    let mut filter = TrailerFilter::new(&NONCE);
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&filter.handle_output(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&filter.finish());
    (out, filter.end().cloned())
}

#[test]
fn the_trailer_is_found_wherever_it_is_cut() {
    for (ending, end) in [
        ("exit 0", ProcessEnd::Exited(0)),
        ("exit 255", ProcessEnd::Exited(255)),
        ("signal 9", ProcessEnd::Signaled(9)),
    ] {
        let stream = [b"no newline", trailer(ending).as_slice(), b"from behind\n"].concat();
        let expected = (b"no newlinefrom behind\n".to_vec(), Some(end));
        for one in 0..=stream.len() {
            for two in one..=stream.len() {
                let cut = [&stream[..one], &stream[one..two], &stream[two..]];
                assert_eq!(filter(cut), expected, "cut at {one} and {two}");
            }
        }
        assert_eq!(filter(stream.chunks(1)), expected);
    }
}

#[test]
fn what_only_looks_like_a_trailer_is_output() {
    let whole = trailer("exit 3");
    let other = Nonce(NONCE.0 ^ 1).to_string();
    let mut lookalikes = vec![
        String::from_utf8(whole.clone())
            .unwrap()
            .replace(&NONCE.to_string(), &other)
            .into_bytes(),
        whole[1..].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        [
            b"\x1e\x1e\x1e".as_slice(),
            &whole[1..whole.len() - 1],
            b"\n",
        ]
        .concat(),
    ];
    let endings = [
        "exit 256",
        "exit -1",
        "exit",
        "exit 3 ",
        "left 3",
        "",
        "exit 00000000000000003",
    ];
    lookalikes.extend(endings.map(trailer));
    for text in lookalikes {
        for cut in 0..=text.len() {
            let found = filter([&text[..cut], &text[cut..]]);
            assert_eq!(found, (text.clone(), None), "{}", text.escape_ascii());
        }
        // A false trailer doesn't hide the one after it, unless it is incomplete and the mark of
        // the next one ends it.
        if text.ends_with(b"exit 3") {
            continue;
        }
        let both = [text.as_slice(), &whole].concat();
        let found = filter(both.chunks(7));
        assert_eq!(found, (text, Some(ProcessEnd::Exited(3))));
    }
}

#[test]
fn only_what_may_be_the_trailer_is_held_back() {
    let mut filter = TrailerFilter::new(&NONCE);
    for (piece, passed) in [
        ("$ \u{1e}actix", "$ "),
        ("-sand", ""),
        ("wich", "\u{1e}actix-sandwich"),
    ] {
        assert_eq!(filter.handle_output(piece.into()), passed);
    }
    assert_eq!(&*filter.finish(), b"");
}

/// Only the first trailer counts: code that saw its nonce can't forge another.
#[test]
fn a_second_trailer_is_output() {
    let (one, two) = (trailer("exit 1"), trailer("exit 2"));
    let (out, end) = filter([one.as_slice(), &two]);
    assert_eq!((out, end), (two, Some(ProcessEnd::Exited(1))));
}

#[test]
fn a_feature_that_cannot_be_wrapped_is_named() {
    let refused = |language: &str, options: ExecOptions| {
        wrap(language, "", &options, &NONCE).expect_err("refused")
    };
    let options = ExecOptions::default;
    assert!(refused("ruby", options()).contains("bash and python"));
    let timeout_ms = Some(1);
    assert!(
        refused(
            "bash",
            ExecOptions {
                timeout_ms,
                ..options()
            }
        )
        .contains("timeout")
    );
    let input_ends = true;
    assert!(
        refused(
            "bash",
            ExecOptions {
                input_ends,
                ..options()
            }
        )
        .contains("end of input")
    );
    let nul = || "a\0b".to_owned();
    for options in [
        ExecOptions {
            args: vec![nul()],
            ..options()
        },
        ExecOptions {
            cwd: Some(nul()),
            ..options()
        },
        ExecOptions {
            env: vec![("A".into(), nul())],
            ..options()
        },
    ] {
        assert!(refused("python", options).contains("NUL"));
    }
    for name in ["", "A=B"] {
        let env = vec![(name.to_owned(), "x".to_owned())];
        assert!(refused("python", ExecOptions { env, ..options() }).contains("variable"));
    }
}

/// Code may print the wrapper program, so the program must not contain the trailer.
#[test]
fn the_program_does_not_hold_its_own_trailer() {
    for language in ["bash", "python"] {
        let program = wrap(
            language,
            "@@code@@ @@nonce@@",
            &ExecOptions::default(),
            &NONCE,
        );
        let program = program.expect("wrapped").into_bytes();
        let (out, end) = filter([program.as_slice()]);
        assert_eq!((out, end), (program, None));
    }
}

#[test]
fn the_nonce_is_not_shown() {
    assert_eq!(format!("{NONCE:?}"), "Nonce(..)");
    let filter = format!("{:?}", TrailerFilter::new(&NONCE));
    assert_eq!(filter, "TrailerFilter { end: None, .. }");
}

/// Bytes that resemble a trailer.
fn near() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..20),
        Just(b"\x1e".to_vec()),
        (0usize..60, 0usize..60).prop_map(|(from, to)| {
            let whole = trailer("exit 7");
            let (from, to) = (from.min(whole.len() - 1), to.min(whole.len() - 1));
            whole[from.min(to)..from.max(to)].to_vec()
        }),
    ];
    proptest::collection::vec(part, 0..20).prop_map(|parts| parts.concat())
}

fn cut(stream: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    at.extend([0, stream.len()]);
    at.sort_unstable();
    at.windows(2)
        .map(|pair| stream[pair[0]..pair[1]].to_vec())
        .collect()
}

proptest! {
    #[test]
    fn any_output_in_any_pieces_comes_out_unchanged(
        before in near(),
        after in near(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        code in any::<u8>(),
    ) {
        prop_assume!(filter([before.as_slice(), b"\x1e"]).1.is_none());
        let pieces = cut(&before, &cuts);
        prop_assert_eq!(filter(pieces.iter().map(Vec::as_slice)), (before.clone(), None));

        let ending = trailer(&format!("exit {code}"));
        let stream = [before.as_slice(), &ending, &after].concat();
        let pieces = cut(&stream, &cuts);
        let expected = ([before, after].concat(), Some(ProcessEnd::Exited(code.into())));
        prop_assert_eq!(filter(pieces.iter().map(Vec::as_slice)), expected);
    }
}
