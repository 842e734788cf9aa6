//! The status over HTTP and over `status.sock`: one thread, one small runtime, a bound on everything.
//!
//! What must never happen here: a client that says nothing keeps others out for long, or a second daemon takes the socket of the
//! first.

use std::fs::Permissions;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net as unix;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;

use super::limit::Limited;
use super::metrics::Process;
use super::{Document, Offer, Status, page};
use crate::process::{Exit, Stop};

/// The socket's name in the state directory: whoever connects gets one line of JSON.
pub const SOCKET_NAME: &str = "status.sock";
/// HTTP connections at one time.
const HTTP_CONNECTIONS_MAX: usize = 64;
/// Requests on the socket at one time.
const SOCKET_CONNECTIONS_MAX: usize = 16;
/// How long a client on the socket may take to read its line, and how long [`fetch`] waits for it.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that [`fetch`] takes, in bytes.
const DOCUMENT_BYTES_MAX: u64 = 16 << 20;

/// Binds what is offered, then serves it on a thread of its own until the process ends. Returns the HTTP address.
///
/// # Errors
/// When `listen` cannot be listened on. A socket that cannot be made is only a WARN: the daemon works without it.
pub(super) fn start(status: &Status, offer: &Offer) -> Result<Option<SocketAddr>, Stop> {
    let http = offer.listen.map(bind_http).transpose()?;
    let bound = http.as_ref().and_then(|listener| listener.local_addr().ok());
    let socket = offer.state_directory.as_deref().and_then(|directory| {
        bind_socket(directory)
            .inspect_err(|error| {
                tracing::warn!(
                    "no status socket {}: {error}; `streamsend status` will not see this daemon",
                    directory.join(SOCKET_NAME).display()
                );
            })
            .ok()
    });
    let mut places: Vec<String> = bound.iter().map(|address| format!("http://{address}/")).collect();
    let path = offer.state_directory.as_ref().filter(|_| socket.is_some());
    places.extend(path.map(|directory| directory.join(SOCKET_NAME).display().to_string()));
    status.announce(&places);
    if http.is_none() && socket.is_none() {
        return Ok(None);
    }
    let internal = |error: io::Error| Stop::new(Exit::Internal, format!("cannot serve the status: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
    let status = status.clone();
    std::thread::Builder::new()
        .name("status".into())
        .spawn(move || {
            runtime.block_on(async {
                let on_socket = socket.map(|listener| tokio::spawn(serve_socket(listener, status.clone())));
                if let Some(listener) = http {
                    serve_http(listener, status).await;
                }
                if let Some(task) = on_socket {
                    let _ = task.await;
                }
            });
        })
        .map_err(internal)?;
    if let Some(address) = bound {
        tracing::info!("status page on http://{address}/");
    }
    Ok(bound)
}

fn bind_http(address: SocketAddr) -> Result<std::net::TcpListener, Stop> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|error: io::Error| {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::Permission,
            _ => Exit::Unavailable,
        };
        let message = format!("cannot listen on {address}: {error}; choose another address with `listen`");
        Stop::new(exit, message)
    })
}

/// A socket that nobody answers on is left over from a crash.
fn bind_socket(directory: &Path) -> io::Result<unix::UnixListener> {
    let bind = |path: &Path| {
        match unix::UnixStream::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers on it"));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(_) => {}
        }
        let listener = unix::UnixListener::bind(path)?;
        // To ask is to connect, and to connect is to write: for the daemon's group too, who may look but not change anything.
        std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    with_short_path(directory, bind)
}

/// Calls `act` with a path of the socket that fits the 107 bytes of a socket address however deep `directory` lies.
fn with_short_path<T>(directory: &Path, act: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd as _;
    let path = directory.join(SOCKET_NAME);
    if path.as_os_str().len() < 100 {
        return act(&path);
    }
    let opened = std::fs::File::open(directory)?;
    act(&Path::new("/proc/self/fd").join(opened.as_raw_fd().to_string()).join(SOCKET_NAME))
}

async fn serve_socket(listener: unix::UnixListener, status: Status) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!("no status socket: {error}");
            return;
        }
    };
    let places = Arc::new(Semaphore::new(SOCKET_CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((mut stream, _)) = listener.accept().await else {
            // Such as too many open files: not worth a line each, and it passes.
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        let mut line = status.document().to_json().to_string();
        line.push('\n');
        tokio::spawn(async move {
            let write = async {
                stream.write_all(line.as_bytes()).await?;
                stream.shutdown().await
            };
            // A client that went away, or does not read, has only itself to blame.
            let _ = tokio::time::timeout(SOCKET_TIMEOUT, write).await;
            drop(place);
        });
    }
}

async fn serve_http(listener: std::net::TcpListener, status: Status) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => Limited::new(listener, HTTP_CONNECTIONS_MAX),
        Err(error) => {
            tracing::warn!("no status page: {error}");
            return;
        }
    };
    if let Err(error) = axum::serve(listener, router(status)).await {
        tracing::warn!("the status page is gone: {error}");
    }
}

fn router(status: Status) -> Router {
    Router::new()
        .route("/", get(async |State(status): State<Status>| html(page::render(&status.document()))))
        .route("/status", get(async |State(status): State<Status>| json(&status.document())))
        .route("/metrics", get(async |State(status): State<Status>| metrics(&status)))
        .route("/healthz", get(async |State(status): State<Status>| healthz(&status)))
        .route("/readyz", get(async |State(status): State<Status>| readyz(&status)))
        .with_state(status)
}

fn typed(code: StatusCode, kind: &'static str, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
    ];
    (code, headers, body).into_response()
}

fn html(body: String) -> Response {
    typed(StatusCode::OK, "text/html; charset=utf-8", body)
}

fn json(document: &Document) -> Response {
    typed(StatusCode::OK, "application/json", document.to_json().to_string() + "\n")
}

fn metrics(status: &Status) -> Response {
    match status.metrics().encode(status, &Process::read()) {
        Ok(text) => typed(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
        Err(error) => {
            typed(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", format!("{error}\n"))
        }
    }
}

fn plain(code: StatusCode, body: String) -> Response {
    typed(code, "text/plain; charset=utf-8", body + "\n")
}

fn healthz(status: &Status) -> Response {
    match status.health() {
        Ok(()) => plain(StatusCode::OK, "ok".into()),
        Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

fn readyz(status: &Status) -> Response {
    if status.is_ready() {
        plain(StatusCode::OK, "ready".into())
    } else {
        plain(StatusCode::SERVICE_UNAVAILABLE, status.document().text)
    }
}

/// Asks the daemon that owns `state_directory` for its status: the JSON object as text.
///
/// # Errors
/// [`Exit::Unavailable`] when no daemon answers there, [`Exit::Permission`] when it may not be asked.
pub fn fetch(state_directory: &Path) -> Result<String, Stop> {
    let ask = |path: &Path| {
        let mut stream = unix::UnixStream::connect(path)?;
        stream.set_read_timeout(Some(SOCKET_TIMEOUT))?;
        let mut text = String::new();
        Read::by_ref(&mut stream).take(DOCUMENT_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    with_short_path(state_directory, ask).map_err(|error: io::Error| {
        let directory = state_directory.display();
        let (exit, message) = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                (Exit::Unavailable, format!("no daemon runs on {directory}"))
            }
            io::ErrorKind::PermissionDenied => {
                (Exit::Permission, format!("not allowed to ask the daemon on {directory}: {error}"))
            }
            _ => (Exit::Unavailable, format!("the daemon on {directory} does not answer: {error}")),
        };
        Stop::new(exit, message)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use std::io::Write as _;

    use super::super::{ErrorLog, Identity, Snapshot, SystemdNotify};
    use super::*;
    use crate::license_watch::LicenseWatch;
    use crate::process::Shutdown;
    use crate::settings::Program;

    fn status(offer: Offer) -> Status {
        let identity = Identity { program: Program::Uploader, name: "n".into(), topic: "t".into() };
        Status::new(
            identity,
            LicenseWatch::fixed(false),
            Shutdown::new(),
            ErrorLog::default(),
            SystemdNotify::disabled(),
            offer,
        )
    }

    fn http(address: SocketAddr, path: &str) -> (String, String) {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    #[test]
    fn every_page_is_served() {
        let status = status(Offer {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            state_directory: None,
            ..Offer::default()
        });
        status.set_source(Box::new(Snapshot::default));
        let address = status.listening_on().unwrap();
        assert!(http(address, "/healthz").0.starts_with("HTTP/1.1 200"));
        assert!(http(address, "/readyz").0.starts_with("HTTP/1.1 503"));
        status.ready("working");
        assert!(http(address, "/readyz").0.starts_with("HTTP/1.1 200"));
        let (head, body) = http(address, "/status");
        assert!(head.contains("application/json"), "{head}");
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(json["text"], "working");
        let (head, body) = http(address, "/metrics");
        assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
        assert!(body.ends_with("# EOF\n"));
        let (head, body) = http(address, "/");
        assert!(head.contains("text/html") && body.contains("<h1>Streamsend uploader n</h1>"), "{body}");
        assert!(http(address, "/nothing").0.starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn an_address_in_use_ends_the_daemon_and_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let status = status(Offer { listen: Some(address), state_directory: None, ..Offer::default() });
        status.set_source(Box::new(Snapshot::default));
        let stop = status.take_failure().unwrap();
        assert_eq!(stop.exit, Exit::Unavailable);
        assert!(stop.message.contains(&address.to_string()), "{stop}");
        assert!(!status.is_ready());
    }

    #[test]
    fn the_socket_answers_with_one_line_however_deep_it_lies() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        for path in [directory.path(), &deep] {
            assert_eq!(fetch(path).unwrap_err().exit, Exit::Unavailable);
            // Left over from a crash.
            drop(with_short_path(path, |path| unix::UnixListener::bind(path)).unwrap());
            assert_eq!(fetch(path).unwrap_err().exit, Exit::Unavailable);

            let first =
                status(Offer { listen: None, state_directory: Some(path.into()), ..Offer::default() });
            first.set_source(Box::new(Snapshot::default));
            let second =
                status(Offer { listen: None, state_directory: Some(path.into()), ..Offer::default() });
            second.set_text("second");
            second.set_source(Box::new(Snapshot::default));
            let text = fetch(path).unwrap();
            assert!(text.ends_with('\n') && text.matches('\n').count() == 1);
            let document: Document = serde_json::from_str(&text).unwrap();
            assert_eq!(document.text, "starting", "the first daemon keeps its socket");
            first.remove_socket(path);
            assert!(!path.join(SOCKET_NAME).exists());
        }
    }
}
