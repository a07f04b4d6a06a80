//! Tests with a bucket in memory.

use super::*;
use crate::server::store::{
    archive::{
        layout::{Tree, Trees},
        pack::Packer,
    },
    turns::Stop,
};

const BOUNDS: Bounds = Bounds {
    bytes: 1 << 30,
    files: 10,
};

/// A bucket in memory, with its workplace.
fn bucket() -> (tempfile::TempDir, Bucket) {
    let workplace = tempfile::tempdir().unwrap();
    let bucket = Bucket::in_memory(workplace.path());
    bucket.check().unwrap();
    (workplace, bucket)
}

/// An archive of random bytes, which don't compress, so that its upload has several parts.
fn packed(workplace: &tempfile::TempDir, stop: &Stop) -> Packed {
    let tree = tempfile::tempdir().unwrap();
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(PART_BYTES as usize * 5 / 2)
    .collect();
    fs::write(tree.path().join("noise"), noise).unwrap();
    let stops = vec![Stop::default(), stop.clone()];
    let turn = Turn::until(stops);
    let mut packer = Packer::create(workplace.path(), ".unfinished-", None, BOUNDS, &turn).unwrap();
    fs::rename(tree.path(), workplace.path().join("home")).unwrap();
    let trees = Trees {
        directory: workplace.path().to_owned(),
        trees: vec![Tree::new("home", None)],
    };
    packer.add_trees(&trees).unwrap();
    fs::remove_dir_all(workplace.path().join("home")).unwrap();
    packer.finish().unwrap()
}

#[test]
fn an_archive_of_several_parts_comes_back_byte_for_byte() {
    let (workplace, bucket) = bucket();
    let archive = packed(&workplace, &Stop::default());
    let mut expected = Vec::new();
    archive.open().unwrap().read_to_end(&mut expected).unwrap();
    assert!(expected.len() as u64 > 2 * PART_BYTES);
    bucket
        .put(archive, "snapshots/a", Box::new(|| Ok(())))
        .unwrap();
    let mut found = Vec::new();
    let mut file = bucket
        .fetch("snapshots/a", &BOUNDS, &Turn::default())
        .unwrap();
    file.read_to_end(&mut found).unwrap();
    assert!(found == expected);
    drop(file);
    assert_eq!(fs::read_dir(workplace.path()).unwrap().count(), 0);
    let none = bucket
        .fetch("snapshots/b", &BOUNDS, &Turn::default())
        .unwrap_err();
    assert_eq!(none.kind(), io::ErrorKind::NotFound);
}

#[test]
fn an_archive_stopped_or_fenced_late_never_appears() {
    let (workplace, bucket) = bucket();
    let stop = Stop::default();
    let archive = packed(&workplace, &stop);
    let stopped_meanwhile = || {
        stop.stop();
        Ok(())
    };
    let error = bucket.put(archive, "snapshots/a", Box::new(stopped_meanwhile));
    assert!(error.unwrap_err().to_string().contains("given up"));
    let archive = packed(&workplace, &Stop::default());
    let forbidden = || Err(io::Error::other("another server has it"));
    let error = bucket.put(archive, "snapshots/a", Box::new(forbidden));
    assert!(error.unwrap_err().to_string().contains("another server"));
    // Stopped before the first part.
    let stop = Stop::default();
    let archive = packed(&workplace, &stop);
    stop.stop();
    let unasked = || panic!("an upload without parts is not completed");
    bucket
        .put(archive, "snapshots/a", Box::new(unasked))
        .unwrap_err();
    assert!(bucket.list("snapshots").unwrap().is_empty());
}

/// One reader never joins parts of two archives.
#[test]
fn an_archive_that_is_replaced_while_it_is_read_is_an_error() {
    let (workplace, bucket) = bucket();
    let put = || {
        let archive = packed(&workplace, &Stop::default());
        bucket.put(archive, "snapshots/a", Box::new(|| Ok(())))
    };
    put().unwrap();
    let mut reader = bucket.open("snapshots/a").unwrap();
    put().unwrap();
    let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(
        error.to_string().contains("memory://test/snapshots/a"),
        "{error}"
    );
}

#[test]
fn errors_do_not_show_the_repeated_request() {
    let error = |text: &str| {
        explain(&Error::Generic {
            store: "S3",
            source: text.into(),
        })
    };
    let answer = "status 403: <?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code>\
        <AWSAccessKeyId>AKIA1</AWSAccessKeyId><StringToSign>abc</StringToSign></Error> in 3 ms";
    let told = error(answer);
    assert!(
        told.contains("SignatureDoesNotMatch") && told.contains("3 ms"),
        "{told}"
    );
    assert!(!told.contains("AKIA1") && !told.contains("abc"), "{told}");
    for odd in ["", "<", ">", "> <", "<Code>", "</Code><Code>", "a < b"] {
        error(odd);
    }
}
