//! [`Bucket`]: a [`Storage`] in a bucket of S3, Google Cloud Storage or a compatible service.
//!
//! - A file is an object. An object is whole or absent. An archive is uploaded in parts, which stay
//!   invisible until the request that completes the upload.
//! - Files are created and replaced by conditional requests. The server checks at its start that
//!   the storage honours the conditions: a storage that ignores them would give a lock to two
//!   servers.
//! - Credentials and the endpoint are read from the environment. An error names the URL, the
//!   operation and the error code of the storage, but not the full text of its answer, which
//!   repeats parts of the request.
//!
//! The requests run on a separate thread. So a caller can stop waiting at any time, and neither
//! encryption nor a slow network delays sandboxes.

mod errors;
mod ranges;

use std::{
    fs,
    io::{self, Read, Seek},
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use object_store::{
    Error, GetOptions, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    RetryConfig, UpdateVersion, aws::AmazonS3Builder, gcp::GoogleCloudStorageBuilder, path::Path,
};
use rustls::crypto::{CryptoProvider, ring};
use tokio::{
    runtime::{Handle, Runtime},
    time::timeout,
};
use url::Url;

use super::{
    archive::{layout::Bounds, pack::Packed},
    lock::{LOCKS, WAITING},
    place::shown,
    storage::{Fence, MAX_SMALL_BYTES, Stamp, Storage},
    turns::Turn,
};
use crate::server::{
    escaped::Escaped,
    store::bucket::{
        errors::{explain, kind},
        ranges::{PART_BYTES, Ranges},
    },
};

/// Time limit of a request that transfers a part of an archive or completes an upload.
const PART_WITHIN: Duration = Duration::from_secs(60);

/// Time limit of a request while the server starts. The first request may also look up credentials.
const START_WITHIN: Duration = Duration::from_secs(20);

/// Bounds for the time limit of a small request, which is half a lease.
const SMALL_WITHIN: [Duration; 2] = [Duration::from_secs(2), START_WITHIN];

/// Parts of one archive that are uploaded concurrently.
const PARTS_AT_ONCE: usize = 2;

/// Maximum number of parts of an upload. Every storage accepts this many.
const MAX_PARTS: u64 = 10_000;

/// Bounds for the interval at which locks are polled. Each request to a bucket costs money, and
/// users hardly notice a longer interval.
const LOOK_EVERY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// The URL for messages, without a trailing slash.
    url: String,
    /// The directory on this machine where archives are packed and downloaded.
    workplace: PathBuf,
    small_within: Duration,
    requests: Handle,
    /// The runtime behind `requests`. `None` only while `self` is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The drop may happen on a runtime, where blocking is not allowed.
            runtime.shutdown_background();
        }
    }
}

impl Bucket {
    /// Opens the bucket at this URL, and checks that it can be used.
    pub(super) fn open(url: &Url, workplace: &FilePath, lease: Duration) -> io::Result<Self> {
        // The HTTP client panics without a crypto provider. Keeps the provider that the program has
        // chosen, if any.
        if CryptoProvider::get_default().is_none() {
            let _ = ring::default_provider().install_default();
        }
        // Few retries, because the server also retries.
        let retry = RetryConfig {
            max_retries: 3,
            retry_timeout: Duration::from_secs(10),
            ..RetryConfig::default()
        };
        let store: object_store::Result<Arc<dyn ObjectStore>> = match url.scheme() {
            "s3" => AmazonS3Builder::from_env()
                .with_url(url.as_str())
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            _ => GoogleCloudStorageBuilder::from_env()
                .with_url(url.as_str())
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
        };
        let store =
            store.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, explain(&error)))?;
        let root = Path::from_url_path(url.path())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        let bucket = Self::new(store, root, url.as_str(), workplace, lease)?;
        bucket.check()?;
        Ok(bucket)
    }

    fn new(
        store: Arc<dyn ObjectStore>,
        root: Path,
        url: &str,
        workplace: &FilePath,
        lease: Duration,
    ) -> io::Result<Self> {
        fs::create_dir_all(workplace)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(2)
            .enable_all()
            .thread_name("actix-sandbox-state")
            .build()?;
        let [least, most] = SMALL_WITHIN;
        Ok(Self {
            store,
            root,
            url: shown(url).trim_end_matches('/').to_owned(),
            workplace: workplace.to_owned(),
            small_within: (lease / 2).clamp(least, most),
            requests: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Tries the operations that the server needs: list, conditional write, read and remove.
    fn check(&self) -> io::Result<()> {
        let within = START_WITHIN;
        self.list_within(WAITING, within)?;
        let unique = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let name = format!("{LOCKS}/.try-{}-{unique}", std::process::id());
        let honours = || -> io::Result<bool> {
            let made = self.put_within(&name, b"1", PutMode::Create, within)?;
            let again = self.put_within(&name, b"2", PutMode::Create, within)?;
            let (_, stamp) = self.read(&name)?;
            let replaced = self.replace(&name, b"3", &stamp)?;
            let again_replaced = self.replace(&name, b"4", &stamp)?;
            Ok(made && !again && replaced && !again_replaced)
        };
        let honours = honours();
        let removed = self.remove(&name);
        if !honours? {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this storage ignores conditions on writes (If-None-Match, If-Match), \
                 without which two servers could take the same lock",
            ));
        }
        removed
    }

    /// The path of the file with this name. The server chooses the names, so they need no encoding.
    fn at(&self, name: &str) -> Path {
        let parts = name.split('/');
        parts.fold(self.root.clone(), |path, part| path.join(part))
    }

    /// Waits for a request, with a time limit. `what` is the operation, for error messages.
    fn wait<T>(
        &self,
        what: &str,
        name: &str,
        within: Duration,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> io::Result<T> {
        let answer = self
            .requests
            .block_on(async { timeout(within, request).await });
        let (kind, why) = match answer {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => (kind(&error), explain(&error)),
            Err(_) => (
                io::ErrorKind::TimedOut,
                format!(
                    "no answer within {} seconds: \
                     check the endpoint and the credentials in the environment",
                    within.as_secs_f32()
                ),
            ),
        };
        let what = format!("cannot {what} {}/{name}: {why}", self.url);
        Err(io::Error::new(kind, what))
    }

    fn list_within(&self, directory: &str, within: Duration) -> io::Result<Vec<String>> {
        let place = self.at(directory);
        let list = self.store.list_with_delimiter(Some(&place));
        let found = self.wait("list", directory, within, list)?.objects;
        let names = found.iter().filter_map(|meta| meta.location.filename());
        Ok(names.map(str::to_owned).collect())
    }

    /// Writes a small file. Returns whether the condition of `mode` was met.
    fn put_within(
        &self,
        name: &str,
        data: &[u8],
        mode: PutMode,
        within: Duration,
    ) -> io::Result<bool> {
        let place = self.at(name);
        let data = Bytes::copy_from_slice(data).into();
        let put = async {
            match self.store.put_opts(&place, data, mode.into()).await {
                Ok(_) => Ok(true),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.wait("write", name, within, put)
    }

    fn ranges(&self, name: &str) -> io::Result<Ranges<'_>> {
        let (name, place) = (name.to_owned(), self.at(name));
        Ranges::open(Box::new(move |range, if_match| {
            let options = GetOptions {
                range: Some(range.into()),
                if_match,
                ..GetOptions::default()
            };
            let get = async {
                let got = self.store.get_opts(&place, options).await?;
                let meta = got.meta.clone();
                Ok((meta, got.bytes().await?))
            };
            self.wait("read", &name, PART_WITHIN, get)
        }))
    }

    /// Uploads a file in parts. Fails if the operation is stopped.
    fn upload(
        &self,
        name: &str,
        mut file: fs::File,
        upload: &mut dyn MultipartUpload,
        turn: &Turn,
    ) -> io::Result<()> {
        let part_bytes = PART_BYTES.max(file.metadata()?.len().div_ceil(MAX_PARTS));
        let mut under_way = FuturesUnordered::new();
        loop {
            let mut part = Vec::new();
            (&mut file).take(part_bytes).read_to_end(&mut part)?;
            let is_last = part.is_empty();
            if !is_last {
                under_way.push(upload.put_part(part.into()));
            }
            // Finish the pending parts before the operation pauses, so that their requests don't
            // time out.
            let is_drained = is_last || turn.is_over();
            while under_way.len() >= PARTS_AT_ONCE || (is_drained && !under_way.is_empty()) {
                let next = async {
                    tokio::select! {
                        biased;
                        () = turn.stopped() => Ok(()),
                        done = under_way.next() => done.unwrap_or(Ok(())),
                    }
                };
                self.wait("store", name, PART_WITHIN, next)?;
                turn.check_stops()?;
            }
            if is_drained {
                turn.check()?;
            }
            if is_last {
                return Ok(());
            }
        }
    }
}

impl Storage for Bucket {
    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        self.list_within(directory, self.small_within)
    }

    fn read(&self, name: &str) -> io::Result<(Vec<u8>, Stamp)> {
        let place = self.at(name);
        let get = async {
            let got = self.store.get(&place).await?;
            if got.meta.size > MAX_SMALL_BYTES {
                return Err(Error::Generic {
                    store: "bucket",
                    source: format!("the file is larger than {MAX_SMALL_BYTES} bytes").into(),
                });
            }
            let stamp = stamp(&got.meta);
            Ok((got.bytes().await?.to_vec(), stamp))
        };
        self.wait("read", name, self.small_within, get)
    }

    /// If the answer is lost, the retry finds the file that the first request has created, and this
    /// returns false. A lock that was taken like this is free after its lease.
    fn create(&self, name: &str, data: &[u8]) -> io::Result<bool> {
        self.put_within(name, data, PutMode::Create, self.small_within)
    }

    fn replace(&self, name: &str, data: &[u8], old: &Stamp) -> io::Result<bool> {
        let old = UpdateVersion {
            e_tag: old.tag.clone(),
            version: old.version.clone(),
        };
        self.put_within(name, data, PutMode::Update(old), self.small_within)
    }

    fn write(&self, name: &str, data: &[u8]) -> io::Result<()> {
        let written = self.put_within(name, data, PutMode::Overwrite, self.small_within);
        written.map(drop)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let place = self.at(name);
        let removed = self.wait("remove", name, self.small_within, self.store.delete(&place));
        removed.or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
    }

    fn remove_all(&self, directory: &str) -> io::Result<()> {
        let names = self.list(directory)?;
        names
            .iter()
            .try_for_each(|name| self.remove(&format!("{directory}/{name}")))
    }

    fn forget(&self, name: &str) {
        let (store, place, within) = (self.store.clone(), self.at(name), self.small_within);
        self.requests.spawn(async move {
            let _ = timeout(within, store.delete(&place)).await;
        });
    }

    fn stamp(&self, name: &str) -> io::Result<Stamp> {
        let place = self.at(name);
        let meta = self.wait("inspect", name, self.small_within, self.store.head(&place))?;
        Ok(stamp(&meta))
    }

    fn workplace(&self, _name: &str) -> PathBuf {
        self.workplace.clone()
    }

    fn put(&self, archive: Packed, name: &str, fence: Fence<'_>) -> io::Result<()> {
        let place = self.at(name);
        let begin = self.store.put_multipart(&place);
        let mut upload = self.wait("store", name, self.small_within, begin)?;
        let stored = self
            .upload(name, archive.open()?, &mut *upload, archive.turn())
            .and_then(|()| fence())
            .and_then(|()| archive.turn().check_stops())
            .and_then(|()| self.wait("store", name, PART_WITHIN, upload.complete()));
        if stored.is_err()
            && let Err(error) = self.wait(
                "abort the upload of",
                name,
                self.small_within,
                upload.abort(),
            )
        {
            tracing::warn!(
                error = %Escaped(error),
                "invisible parts of an archive stay in the storage: \
                 let it remove unfinished uploads by age"
            );
        }
        stored.map(drop)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.ranges(name)?))
    }

    fn fetch(&self, name: &str, bounds: &Bounds, turn: &Turn) -> io::Result<fs::File> {
        let mut file = tempfile::tempfile_in(&self.workplace)?;
        let mut ranges = self.ranges(name)?;
        if ranges.size() > bounds.compressed_bytes() {
            return Err(bounds.too_many_bytes());
        }
        loop {
            turn.check()?;
            let data = std::mem::take(ranges.data()?);
            if data.is_empty() {
                break;
            }
            io::Write::write_all(&mut file, &data)?;
        }
        file.rewind()?;
        Ok(file)
    }

    fn look_every(&self, lease: Duration) -> Duration {
        let [least, most] = LOOK_EVERY;
        (lease / 10).clamp(least, most)
    }
}

fn stamp(meta: &ObjectMeta) -> Stamp {
    Stamp {
        tag: meta.e_tag.clone(),
        version: meta.version.clone(),
        modified: meta.last_modified.into(),
    }
}

#[cfg(test)]
impl Bucket {
    /// A bucket in memory.
    pub(super) fn in_memory(workplace: &FilePath) -> Self {
        let store = Arc::new(object_store::memory::InMemory::new());
        let lease = Duration::from_secs(10);
        Self::new(
            store,
            Path::from("prefix"),
            "memory://test",
            workplace,
            lease,
        )
        .unwrap()
    }
}

#[cfg(test)]
mod tests;
