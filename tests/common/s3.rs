//! An S3 server on loopback, in this process: `s3s` over a folder. It checks signatures, and the sizes of parts.

#![allow(
    dead_code,
    reason = "shared by test binaries, each of which uses a part"
)]

use std::{collections::BTreeMap, fs, path::Path};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use s3s::{Body, S3, S3Request, auth::SimpleAuth, dto, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};

/// The bucket that every server has.
pub(crate) const BUCKET: &str = "models";

/// Its only user.
pub(crate) const KEY_ID: &str = "AKIAMARKEDKEYID00000";
pub(crate) const SECRET: &str = "marked-secret-key-of-the-tests";

pub(crate) struct S3Server {
    pub(crate) url: String,
    folder: TempDir,
    runtime: Runtime,
}

impl S3Server {
    /// With [`BUCKET`], which is empty.
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().expect("a folder for objects");
        fs::create_dir(folder.path().join(BUCKET)).expect("a bucket");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let store = FileSystem::new(folder.path()).expect("the folder of objects");
        let mut service = S3ServiceBuilder::new(store);
        service.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        let service = service.build();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("loopback has a free port");
        let url = format!("http://{}", listener.local_addr().expect("it was bound"));
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let http = auto::Builder::new(TokioExecutor::new());
                    // A client that hangs up is its own business.
                    let served = http.serve_connection(TokioIo::new(socket), service);
                    served.await.ok();
                });
            }
        });
        Self {
            url,
            folder,
            runtime,
        }
    }

    /// What the environment has to say to reach it; `url` is its own, or that of a proxy before it.
    pub(crate) fn environment(url: &str) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", url.to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY_ID.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
    }

    /// Puts an object, by the server's own code, so that its ETag is what a client would have got.
    pub(crate) fn put(&self, key: &str, bytes: Vec<u8>) {
        let store = FileSystem::new(self.folder.path()).expect("the folder of objects");
        let input = dto::PutObjectInput {
            bucket: BUCKET.to_owned(),
            key: key.to_owned(),
            content_length: i64::try_from(bytes.len()).ok(),
            body: Some(Body::from(bytes).into()),
            ..dto::PutObjectInput::default()
        };
        let request = S3Request {
            input,
            method: http::Method::PUT,
            uri: http::Uri::from_static("/"),
            headers: http::HeaderMap::new(),
            extensions: http::Extensions::new(),
            credentials: None,
            region: None,
            service: None,
            trailing_headers: None,
        };
        let put = self.runtime.block_on(store.put_object(request));
        put.unwrap_or_else(|error| panic!("{key}: {error:?}"));
    }

    /// Puts every file of a folder under `prefix`.
    pub(crate) fn put_folder(&self, prefix: &str, folder: &Path) {
        for file in fs::read_dir(folder).expect("a folder") {
            let file = file.expect("a file");
            if file.path().is_file() {
                let name = file.file_name().into_string().expect("UTF-8");
                let bytes = fs::read(file.path()).expect("a file");
                self.put(&format!("{prefix}/{name}"), bytes);
            }
        }
    }

    /// All objects whose keys begin with `prefix` and a slash, by the rest of their keys.
    pub(crate) fn objects(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let root = self.folder.path().join(BUCKET).join(prefix);
        collect(&root, &root, &mut found);
        found
    }

    pub(crate) fn remove(&self, key: &str) {
        fs::remove_file(self.folder.path().join(BUCKET).join(key)).expect("an object");
    }

    /// Uploads in parts that were neither completed nor aborted.
    pub(crate) fn open_uploads(&self) -> usize {
        let files = fs::read_dir(self.folder.path()).expect("the folder of objects");
        let names = files.map(|file| file.expect("a file").file_name());
        let open = names.filter(|name| name.to_string_lossy().starts_with(".upload-"));
        open.count()
    }
}

fn collect(root: &Path, folder: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, into);
        } else {
            let key = path.strip_prefix(root).expect("is below");
            let bytes = fs::read(&path).expect("an object");
            into.insert(key.to_string_lossy().into_owned(), bytes);
        }
    }
}
