//! The fast path returns the same results as the general reader.

use std::{fs, path::Path};

use proptest::prelude::*;

use super::super::{fast, read::message as read_any, *};

const VERSIONS: [Version; 2] = [Version::V1, Version::V2];

/// Reads a frame by the fast path only.
fn read(frame: &Bytes, version: Version) -> Option<ServerMessage> {
    let output = fast::output(frame, version);
    let output = output.map(|output| ServerMessage::Output(output.into_piece(frame)));
    output.or_else(|| fast::read(frame, version).map(Received::into_message))
}

/// Asserts that the general reader returns the same result for a frame that the fast path reads.
fn compare(frame: &[u8]) {
    let frame = Bytes::copy_from_slice(frame);
    for version in VERSIONS {
        let Some(fast) = read(&frame, version) else {
            continue;
        };
        let general = read_any(&frame, version);
        assert_eq!(general, Ok(fast), "{version}: {frame:?}");
    }
}

/// Finds the texts in a JSON value, at any depth.
fn texts(value: &serde_json::Value, found: &mut dyn FnMut(&str)) {
    match value {
        serde_json::Value::String(text) => found(text),
        serde_json::Value::Array(list) => list.iter().for_each(|it| texts(it, found)),
        serde_json::Value::Object(map) => map.values().for_each(|it| texts(it, found)),
        _ => {}
    }
}

fn files(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap());
    let files = files.filter(|file| file.path().is_file());
    files.map(|file| fs::read(file.path()).unwrap()).collect()
}

#[test]
fn recorded_frames_are_read_alike_by_both_readers() {
    let (mut frames, mut usual, mut fast) = (0, 0, 0);
    for file in files("tests/transcripts") {
        for line in String::from_utf8(file).unwrap().lines() {
            texts(&serde_json::from_str(line).unwrap(), &mut |frame| {
                compare(frame.as_bytes());
                frames += usize::from(frame.starts_with('{'));
                let frame = Bytes::copy_from_slice(frame.as_bytes());
                let message = ServerMessage::parse(&frame);
                usual += usize::from(matches!(
                    message,
                    Ok(ServerMessage::Output(_) | ServerMessage::Status(_))
                ));
                fast += usize::from(read(&frame, Version::V1).is_some());
            });
        }
    }
    assert!(
        fast > 100 && fast <= usual && usual < frames,
        "{fast} of {usual} of {frames}"
    );
}

#[test]
fn fuzz_seeds_are_read_alike_by_both_readers() {
    for target in ["codec", "client_machine", "server_machine"] {
        // The published package doesn't contain the corpus.
        let folder = format!("fuzz/corpus/{target}");
        if !Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").exists() {
            return;
        }
        let seeds = files(&folder);
        assert!(!seeds.is_empty());
        for seed in seeds {
            (0..seed.len().min(16)).for_each(|from| compare(&seed[from..]));
            seed.split(|byte| *byte == b'\n').for_each(compare);
        }
    }
}

#[test]
fn usual_messages_are_read_by_the_fast_path() {
    for frame in [
        r#"{"event":"stdout","exec":"e-1","offset":0,"data":"x"}"#,
        r#"{"event":"stdout","exec":"e-1","offset":0,"data_b64":"/w=="}"#,
        r#"{"event":"stderr","exec":"e-1","offset":18446,"data":"caf\u00e9\n"}"#,
        r#"{"event":"status_update","status":"SANDBOX_RUNNING"}"#,
        r#"{"event":"status_update","status":"SANDBOX_EXECUTION_RUNNING","exec":"e","stdin":0,"window":9}"#,
        r#"{"event":"status_update","status":"SANDBOX_EXECUTION_DONE","exec":"e","exit_code":0,"stdout":1,"stderr":2,"reason":"exited"}"#,
        r#"{"event":"status_update","status":"SANDBOX_EXECUTION_EXITED","exec":"e","signal":9,"reason":"killed"}"#,
        r#"{"event":"stdin_ack","exec":"e","offset":7}"#,
        r#"{"event":"stdout","data":"\ud83d\ude00 \" \\ \/ é"}"#,
    ] {
        assert!(
            read(&Bytes::from_static(frame.as_bytes()), Version::V2).is_some(),
            "{frame}"
        );
        compare(frame.as_bytes());
    }
}

#[test]
fn other_frames_are_left_to_the_general_reader() {
    for frame in [
        "",
        "{",
        "{}",
        r#"{"event":"stdout","data":"x"}}"#,
        r#"{"event":"stdout","data":"x",}"#,
        r#"{"event":"stdout" "data":"x"}"#,
        r#"{"event":"stdout","data":"\x"}"#,
        r#"{"event":"stdout","data":"\ud800"}"#,
        r#"{"event":"stdout","data":"x\"}"#,
        r#"{"event":"stdout","data":"\é"}"#,
        r#"{"event":"stdout","data":"\"#,
        "{\"event\":\"stdout\",\"data\":\"a\nb\"}",
        r#"{"event":"stdout","data":"x","data":"y"}"#,
        r#"{"event":"stdout","data":"x","more":1}"#,
        r#"{"event":"stdout","exec":"e","offset":01,"data":"x"}"#,
        r#"{"event":"stdout","exec":"e","offset":-1,"data":"x"}"#,
        r#"{"event":"stdout","exec":"e","offset":1.0,"data":"x"}"#,
        r#"{"event":"stdout","exec":"e","offset":1e3,"data":"x"}"#,
        r#"{"event":"stdout","exec":"e","offset":99999999999999999999,"data":"x"}"#,
        r#"{"event":"stdout","exec":"e","data":"x"}"#,
        r#"{"event":"stdout","data_b64":"/w=="}"#,
        r#"{"event":"stdout","exec":"e","offset":0,"data_b64":"?"}"#,
        r#"{"event":"stdin_ack","exec":"e","offset":7,"more":1}"#,
        r#"{"event":"status_update","status":"SANDBOX_RUNNING","message":"m"}"#,
        r#"{"event":"status_update","status":"X","exec":"e","exit_code":0}"#,
    ] {
        assert!(
            read(&Bytes::from_static(frame.as_bytes()), Version::V2).is_none(),
            "{frame}"
        );
    }
}

/// A key and a value that may occur in a message, valid or invalid.
fn entry() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "event",
        "status",
        "exec",
        "reason",
        "data",
        "data_b64",
        "offset",
        "stdin",
        "window",
        "stdout",
        "stderr",
        "exit_code",
        "signal",
        "output_cut",
        "message",
        "other",
    ]);
    let text = prop_oneof![
        prop::sample::select(vec![
            "stdout",
            "stderr",
            "status_update",
            "stdin_ack",
            "error",
            "exited",
            "killed",
            "",
            "SANDBOX_EXECUTION_DONE",
            "SANDBOX_EXECUTION_EXITED",
            "SANDBOX_RUNNING",
            "\\n",
            "\\u00e9",
            "\\ud83d\\ude00",
            "\\ud83d",
            "\\",
            "é",
            "\u{1}",
            "0123456789abcdef0123456789abcdef\\\"0123456789",
        ])
        .prop_map(|text| format!("\"{text}\"")),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    let number = prop_oneof![
        any::<u64>().prop_map(|number| number.to_string()),
        any::<i32>().prop_map(|number| number.to_string()),
        (0..3_u64).prop_map(|number| number.to_string()),
    ];
    let odd = prop::sample::select(vec!["null", "true", "[1]", "{}", "01", "1.5", "-0", ""]);
    let value = prop_oneof![
        4 => text,
        3 => number,
        1 => odd.prop_map(str::to_owned),
    ];
    let space = prop::sample::select(vec!["", "", "", " ", "\n\t"]);
    (key, value, space).prop_map(|(key, value, space)| format!("\"{key}\"{space}:{space}{value}"))
}

/// The keys of one kind of message, in the usual or any order, with one key more or less.
fn message() -> impl Strategy<Value = Vec<String>> {
    let output = [
        r#""event":"stdout""#,
        r#""exec":"e""#,
        r#""offset":3"#,
        r#""data":"a\n""#,
    ];
    let done = [
        r#""event":"status_update""#,
        r#""status":"SANDBOX_EXECUTION_DONE""#,
        r#""exec":"e""#,
        r#""stdin":7"#,
        r#""window":8"#,
        r#""exit_code":1"#,
        r#""signal":9"#,
        r#""stdout":5"#,
        r#""stderr":6"#,
        r#""output_cut":true"#,
        r#""reason":"exited""#,
    ];
    let base64 = [
        r#""event":"stderr""#,
        r#""exec":"e""#,
        r#""offset":3"#,
        r#""data_b64":"/w==""#,
    ];
    let taken = [r#""event":"stdin_ack""#, r#""exec":"e""#, r#""offset":3"#];
    let kinds = vec![
        output.to_vec(),
        base64.to_vec(),
        done.to_vec(),
        taken.to_vec(),
    ];
    let usual = prop::sample::select(kinds);
    let kind = prop_oneof![usual.clone(), usual.prop_shuffle()];
    let extra = prop::collection::vec(entry(), 0..2);
    (kind, extra, 0..15_usize).prop_map(|(kind, extra, left_out)| {
        let kept = kind.into_iter().enumerate();
        let kept = kept.filter(|(index, _)| *index != left_out);
        kept.map(|(_, entry)| entry.to_owned())
            .chain(extra)
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_frame_is_read_alike_by_both_readers(
        entries in prop_oneof![message(), prop::collection::vec(entry(), 0..6)],
        edit in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut frame = format!("{{{}}}", entries.join(",")).into_bytes();
        compare(&frame);
        if let Some((at, byte)) = edit {
            let at = at.index(frame.len());
            frame[at] = byte;
            compare(&frame);
            frame.truncate(at);
            compare(&frame);
        }
    }
}
