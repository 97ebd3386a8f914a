//! The operator's folder of static files.

use std::path::{Path, PathBuf};

use http::header::{CONTENT_LENGTH, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame};
use percent_encoding::percent_decode_str;
use tower_http::services::ServeFile;

use super::{Body, bytes};

/// Every regular file below a folder. Folders are not listed, names that begin with a dot are not
/// served but for `.well-known`, and no symbolic link leads out.
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The answer to GET or HEAD, if there is such a file.
    pub(super) async fn get(&self, request: &Request<()>) -> Option<Response<Body>> {
        match self.find(request).await? {
            Found::File(path) => serve(&path, request).await,
            Found::Folder => redirect(request),
        }
    }

    /// The same, but nothing leads to a folder.
    pub(super) async fn file(&self, request: &Request<()>) -> Option<Response<Body>> {
        let Found::File(path) = self.find(request).await? else { return None };
        serve(&path, request).await
    }

    async fn find(&self, request: &Request<()>) -> Option<Found> {
        let path = Wanted::read(request.uri().path())?;
        let root = self.root.clone();
        tokio::task::spawn_blocking(move || path.find(&root)).await.ok()?
    }
}

/// What a path asks for: plain names below the root.
pub(super) struct Wanted {
    pub(super) path: PathBuf,
    ends_with_slash: bool,
}

enum Found {
    File(PathBuf),
    /// A folder that was asked for without its slash.
    Folder,
}

impl Wanted {
    /// Only plain names: nothing is left that could lead upwards or mean anything to a file system
    /// but a name.
    pub(super) fn read(path: &str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let (path, ends_with_slash) = match path.strip_suffix('/') {
            Some(path) => (path, true),
            None => (path, path.is_empty()),
        };
        let names = path.split('/').filter(|_| !path.is_empty());
        Some(Self { path: names.map(plain_name).collect::<Option<_>>()?, ends_with_slash })
    }

    fn find(&self, root: &Path) -> Option<Found> {
        // Of the folder as it is now: it may itself be a link that the next release is put behind.
        let real_root = root.canonicalize().ok()?;
        let inside = |path: &Path| {
            let real = path.canonicalize().ok().filter(|real| real.starts_with(&real_root));
            real?.metadata().ok()
        };
        let path = root.join(&self.path);
        if !inside(&path)?.is_dir() {
            let is_file = !self.ends_with_slash && inside(&path)?.is_file();
            return is_file.then_some(Found::File(path));
        }
        if !self.ends_with_slash {
            return Some(Found::Folder);
        }
        let index = path.join("index.html");
        inside(&index)?.is_file().then_some(Found::File(index))
    }
}

fn plain_name(encoded: &str) -> Option<String> {
    let name = percent_decode_str(encoded).decode_utf8().ok()?;
    let is_hidden = name.starts_with('.') && name != ".well-known";
    let is_plain = !name.is_empty() && !name.contains(['/', '\\', ':', '\0']);
    (is_plain && !is_hidden).then(|| name.into_owned())
}

async fn serve(path: &Path, request: &Request<()>) -> Option<Response<Body>> {
    let mut request = request.clone();
    // RFC 9110 14.2: a range counts for GET alone, another unit than bytes does not, and of several
    // none need be honoured.
    let is_one_range = |range: &HeaderValue| {
        let range = range.as_bytes();
        range.starts_with(b"bytes=") && !range.contains(&b',')
    };
    if request.method() != Method::GET || !request.headers().get(RANGE).is_some_and(is_one_range) {
        request.headers_mut().remove(RANGE);
    }
    let mut response = ServeFile::new(path).try_call(request.clone()).await.ok()?;
    if !is_the_range_of_this_file(request.headers(), response.headers()) {
        request.headers_mut().remove(RANGE);
        response = ServeFile::new(path).try_call(request).await.ok()?;
    }
    let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let Some(mut left) = length.and_then(|length| length.parse().ok()) else {
        return Some(response.map(BodyExt::boxed_unsync));
    };
    // A file that grows while it is read would run into the next answer.
    let within = move |frame: Frame<Bytes>| {
        frame.map_data(|data| {
            let kept = data.slice(..data.len().min(left));
            left -= kept.len();
            kept
        })
    };
    Some(response.map(|body| body.map_frame(within).boxed_unsync()))
}

/// RFC 9110 13.1.5: part of a file is of use only to who has the rest of this very file.
fn is_the_range_of_this_file(request: &HeaderMap, response: &HeaderMap) -> bool {
    let Some(condition) = request.get(IF_RANGE).filter(|_| request.contains_key(RANGE)) else {
        return true;
    };
    [ETAG, LAST_MODIFIED].iter().any(|name| response.get(name) == Some(condition))
}

/// To the folder with its slash, so that the links of its page are relative to it.
fn redirect(request: &Request<()>) -> Option<Response<Body>> {
    let uri = request.uri();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = format!("{}/{query}", uri.path());
    let mut response = Response::new(bytes(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(LOCATION, HeaderValue::try_from(location).ok()?);
    Some(response)
}
