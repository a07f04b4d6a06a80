//! [`Bucket`]: a [`Storage`] in a bucket of S3 or of Google Cloud Storage, or of what speaks like them.
//!
//! - A file is an object. An object is whole or it is not there; an archive goes up in parts, which nobody sees before the
//!   last request of the upload.
//! - Files are made and replaced by conditional requests, which are tried when the server starts: a storage that ignores the
//!   conditions would give a lock to two.
//! - Credentials and endpoint are read from the environment. An error names the URL, what was attempted and what the storage
//!   answered, but for the text of the answer: that repeats parts of the request.
//!
//! The requests run on a thread of their own, so that whoever waits for them may end at any time, and neither encryption
//! nor a slow network is felt by the sandboxes.

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

/// Longest time that a request takes that moves a part of an archive, or completes one.
const PART_WITHIN: Duration = Duration::from_secs(60);

/// Longest time that anything takes while the server starts: credentials may have to be found first.
const START_WITHIN: Duration = Duration::from_secs(20);

/// Longest time that a small request takes: no longer than half a lease, but within these.
const SMALL_WITHIN: [Duration; 2] = [Duration::from_secs(2), START_WITHIN];

/// Parts of one archive that are under way at the same time.
const PARTS_AT_ONCE: usize = 2;

/// Most parts of an upload, of all storages.
const MAX_PARTS: u64 = 10_000;

/// Looking costs money, and nobody notices that it takes longer.
const LOOK_EVERY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// As it is shown, without a slash at its end.
    url: String,
    /// A directory of this machine.
    workplace: PathBuf,
    small_within: Duration,
    requests: Handle,
    /// What they run on; `None` once it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped where nobody may wait.
            runtime.shutdown_background();
        }
    }
}

impl Bucket {
    /// The bucket of this URL, after trying that it can be used.
    pub(super) fn open(url: &Url, workplace: &FilePath, lease: Duration) -> io::Result<Self> {
        // The HTTP client panics without one. Whatever the program has chosen itself is left.
        if CryptoProvider::get_default().is_none() {
            let _ = ring::default_provider().install_default();
        }
        // Small: what is tried again is also tried again by the server.
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

    /// Does once what the server will need: lists, writes by conditions, reads and removes.
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
                "this storage ignores conditions on writes (If-None-Match, If-Match), without which a lock could be taken by two servers",
            ));
        }
        removed
    }

    /// Where the file of a name is. Names are ours: there is nothing in them to be encoded.
    fn at(&self, name: &str) -> Path {
        let parts = name.split('/');
        parts.fold(self.root.clone(), |path, part| path.join(part))
    }

    /// Waits for a request, so long at most. `what` it is to do, for the error.
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
                    "no answer within {} seconds: are the endpoint and the credentials in the environment, and right?",
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

    /// Whether the condition of the mode was met.
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

    /// Uploads a file in parts, until it was told to stop.
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
            // A part that is under way must not pause with the operation.
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
                    source: format!("it is larger than {MAX_SMALL_BYTES} bytes").into(),
                });
            }
            let stamp = stamp(&got.meta);
            Ok((got.bytes().await?.to_vec(), stamp))
        };
        self.wait("read", name, self.small_within, get)
    }

    /// When the answer to it is lost and it is asked again, it was made and is said not to be. A lock that was taken like
    /// that is free after its time.
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
        let meta = self.wait("look at", name, self.small_within, self.store.head(&place))?;
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
            && let Err(error) = self.wait("give up", name, self.small_within, upload.abort())
        {
            tracing::warn!(error = %Escaped(error), "parts of an archive stay in the storage, unseen: let it remove unfinished uploads by age");
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
