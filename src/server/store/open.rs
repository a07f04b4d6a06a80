//! [`open`]: opens the [`Storage`] at the [`Place`] that the options name.

use std::{io, path::Path, sync::Arc, time::Duration};

use url::Url;

use super::{directory::Directory, place::Place, storage::Storage};

/// The accepted forms, for error messages.
const EXPECTED: &str = "expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or file:///DIRECTORY";

/// Opens the storage at a place. Blocks.
///
/// `workplace` is a directory that only this server uses; archives for buckets are packed there.
/// `lease` is the lease of the locks.
pub(crate) fn open(
    place: &Place,
    workplace: &Path,
    lease: Duration,
) -> io::Result<Arc<dyn Storage>> {
    let url = match place {
        Place::Directory(directory) => return Ok(Arc::new(Directory::open(directory)?)),
        Place::Url(url) => url,
    };
    let refused = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    let url = Url::parse(&url.0)
        .map_err(|error| refused(format!("not a valid URL ({error}): {EXPECTED}")))?;
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(refused(format!(
            "the URL has a user, a password, a query or a fragment: {EXPECTED}; \
             set credentials in the environment"
        )));
    }
    match (url.scheme(), url.host_str()) {
        ("file", None) => {
            let directory = url.to_file_path();
            let directory =
                directory.map_err(|()| refused(format!("not a local path: {EXPECTED}")))?;
            Ok(Arc::new(Directory::open(&directory)?))
        }
        #[cfg(feature = "object-store")]
        ("s3" | "gs", Some(_)) => Ok(Arc::new(super::bucket::Bucket::open(
            &url, workplace, lease,
        )?)),
        #[cfg(not(feature = "object-store"))]
        ("s3" | "gs", Some(_)) => {
            let _ = (workplace, lease);
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "buckets need the feature `object-store`: \
                 build actix-sandbox with `--features object-store`",
            ))
        }
        _ => Err(refused(EXPECTED.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::place::{ShownUrl, shown},
        *,
    };

    fn error(url: &str) -> io::Error {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::Url(ShownUrl(url.to_owned()));
        open(&place, directory.path(), Duration::from_secs(10))
            .err()
            .expect(url)
    }

    #[test]
    fn an_invalid_place_is_refused_with_the_accepted_forms() {
        for url in [
            "s3:bucket",
            "s3://",
            "nothing",
            "https://bucket/a",
            "file://host/a",
            "az://bucket/a",
        ] {
            let error = error(url).to_string();
            assert!(error.contains(EXPECTED), "{url}: {error}");
        }
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_not_shown() {
        for url in [
            "s3://key:pa55word@bucket/a",
            "s3://bucket/a?secret=pa55word",
            "s3://bucket/a#pa55word",
            "s3://key:pa55/word@bucket",
            "key:pa55word@bucket",
        ] {
            let error = error(url).to_string();
            let place = Place::Url(ShownUrl(url.to_owned()));
            for text in [error, format!("{place:?}"), shown(url)] {
                assert!(!text.contains("pa55"), "{text}");
            }
        }
        assert_eq!(shown("s3://bucket/pre/fix"), "s3://bucket/pre/fix");
    }

    #[test]
    fn a_file_url_is_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let made = directory.path().join("made here");
        let url = Url::from_file_path(&made).unwrap().to_string();
        let place = Place::Url(ShownUrl(url));
        open(&place, directory.path(), Duration::from_secs(10)).unwrap();
        assert!(made.join("checkpoints").is_dir());
    }

    #[cfg(not(feature = "object-store"))]
    #[test]
    fn a_bucket_without_its_feature_names_the_feature() {
        assert!(
            error("s3://bucket/a")
                .to_string()
                .contains("`--features object-store`")
        );
    }
}
