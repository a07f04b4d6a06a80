//! moto, an emulator of S3, in a separate process.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock},
};

use futures::TryStreamExt;
use object_store::{ObjectStore, aws::AmazonS3Builder};

/// The secret access key that all clients use.
pub(crate) const SECRET: &str = "never-to-be-seen";
const KEY: &str = "AKIATEST";
const REGION: &str = "us-east-1";

/// Sets the `AWS_*` variables of a command to this endpoint, and removes all others.
pub(crate) fn with_credentials(command: &mut Command, endpoint: SocketAddr) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command
        .env("AWS_ENDPOINT", format!("http://{endpoint}"))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_REGION", REGION)
        .env("AWS_ACCESS_KEY_ID", KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
}

/// A running emulator. It ends with this process, even if the process is killed.
pub(crate) struct Moto {
    pub(crate) address: SocketAddr,
    child: Mutex<Child>,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        drop(child.stdin.take());
        let _ = child.wait();
    }
}

impl Moto {
    /// The emulator that all tests of this process share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Moto> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// Starts another emulator, with these environment variables.
    pub(crate) fn start(variables: &[(&str, &str)]) -> Self {
        // The shell kills the emulator when its stdin ends.
        let script = "moto_server -H 127.0.0.1 -p 0 & cat > /dev/null; kill $!";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let address = loop {
            let before = said.len();
            let is_over = log.read_line(&mut said).unwrap() == 0;
            assert!(
                !is_over && !said.contains("not found"),
                "the S3 emulator did not start; install it with `pip install 'moto[server]'`: {said}"
            );
            if let Some((_, address)) = said[before..].split_once("Running on http://") {
                break address.trim().parse().expect("an address");
            }
        };
        // The emulator keeps logging: an unread pipe would block it.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        TcpStream::connect(address).expect("it listens");
        Self {
            address,
            child: Mutex::new(child),
        }
    }

    /// Creates a bucket.
    pub(crate) fn bucket(&self, name: &'static str) -> Bucket {
        let mut connection = TcpStream::connect(self.address).unwrap();
        let host = self.address;
        let request = format!(
            "PUT /{name} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).unwrap();
        let mut status = String::new();
        BufReader::new(connection).read_line(&mut status).unwrap();
        assert!(status.contains(" 200 "), "{status}");
        Bucket {
            address: self.address,
            name,
        }
    }
}

/// A bucket of the emulator.
pub(crate) struct Bucket {
    address: SocketAddr,
    name: &'static str,
}

impl Bucket {
    pub(crate) fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.name)
    }

    /// The sorted names of all objects.
    pub(crate) fn names(&self) -> Vec<String> {
        let (endpoint, name) = (format!("http://{}", self.address), self.name);
        // On another thread, because the test may block inside a runtime.
        let list = move || {
            let store = AmazonS3Builder::new()
                .with_endpoint(endpoint)
                .with_allow_http(true)
                .with_region(REGION)
                .with_bucket_name(name)
                .with_access_key_id(KEY)
                .with_secret_access_key(SECRET)
                .build()
                .unwrap();
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let objects = runtime.block_on(store.list(None).try_collect::<Vec<_>>());
            let names = objects.unwrap().into_iter();
            let mut names: Vec<String> = names.map(|object| object.location.into()).collect();
            names.sort();
            names
        };
        let _ = rustls::crypto::ring::default_provider().install_default();
        std::thread::spawn(list).join().unwrap()
    }
}
