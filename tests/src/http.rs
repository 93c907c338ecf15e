//! Small HTTP client without normalization: it sends repeated headers and raw paths as given, on
//! explicit connections, over HTTP/1.1 or HTTP/2.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Timeout of a request. No response in a test takes this long unless a part hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request, header by header.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// Path and query, sent unchanged.
    pub path: String,
    /// Headers in order; names may repeat. `host` is added unless it is here.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Request {
    /// Creates a request without headers or body.
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// Creates a GET request.
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// Creates a POST request with an already encoded form.
    pub fn form(path: &str, form: &str) -> Self {
        let mut request =
            Self::new("POST", path).header("content-type", "application/x-www-form-urlencoded");
        request.body = Bytes::copy_from_slice(form.as_bytes());
        request
    }

    /// Creates a POST request with JSON.
    pub fn json(path: &str, body: &Value) -> Self {
        let mut request = Self::new("POST", path).header("content-type", "application/json");
        request.body = Bytes::from(body.to_string());
        request
    }

    /// Adds a header; an earlier one of the same name stays.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds `authorization: Bearer …`.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Builds the request. HTTP/2 needs the host in the URI (`whole_uri`), HTTP/1.1 in a header.
    fn build(&self, host: &str, whole_uri: bool) -> Result<hyper::Request<Full<Bytes>>> {
        let given = self
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("host"))
            .map(|(_, value)| value.as_str());
        let host = given.unwrap_or(host);
        let uri = if whole_uri {
            format!("http://{host}{}", self.path)
        } else {
            self.path.clone()
        };
        let mut request = hyper::Request::builder()
            .method(self.method.as_str())
            .uri(uri)
            .body(Full::new(self.body.clone()))?;
        for (name, value) in &self.headers {
            if whole_uri && name.eq_ignore_ascii_case("host") {
                continue;
            }
            request.headers_mut().append(
                HeaderName::from_bytes(name.as_bytes())?,
                HeaderValue::from_str(value)?,
            );
        }
        if !whole_uri && given.is_none() {
            request
                .headers_mut()
                .insert(HOST, HeaderValue::from_str(host)?);
        }
        Ok(request)
    }
}

/// A complete response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// The value of the first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The rejection code of Meshseal: the `code` member of the problem details (RFC 9457).
    pub fn code(&self) -> Option<String> {
        self.json()
            .get("code")
            .and_then(Value::as_str)
            .map(str::to_owned)
    }
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// A kept-alive connection. The same Envoy worker serves all of its requests.
#[derive(Debug)]
pub struct Connection {
    to: SocketAddr,
    sender: Sender,
}

impl Connection {
    /// Opens an HTTP/1.1 connection.
    ///
    /// # Errors
    /// Fails if no server listens on this address.
    pub async fn open(to: SocketAddr) -> Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(connect(to).await?)).await?;
        tokio::spawn(connection);
        Ok(Self {
            to,
            sender: Sender::One(sender),
        })
    }

    /// Opens an HTTP/2 connection with prior knowledge, as a gRPC client would.
    ///
    /// # Errors
    /// Fails if no server listens on this address.
    pub async fn open_h2(to: SocketAddr) -> Result<Self> {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(connect(to).await?)).await?;
        tokio::spawn(connection);
        Ok(Self {
            to,
            sender: Sender::Two(sender),
        })
    }

    /// Returns true if the peer has closed the connection.
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::One(sender) => sender.is_closed(),
            Sender::Two(sender) => sender.is_closed(),
        }
    }

    /// Sends the request and reads the complete response.
    ///
    /// # Errors
    /// Fails if the connection breaks or no response comes within 30 seconds.
    pub async fn send(&mut self, request: &Request) -> Result<Response> {
        let to = self.to.to_string();
        let exchange = async {
            let response = match &mut self.sender {
                Sender::One(sender) => {
                    sender.ready().await?;
                    sender.send_request(request.build(&to, false)?).await?
                }
                Sender::Two(sender) => {
                    sender.ready().await?;
                    sender.send_request(request.build(&to, true)?).await?
                }
            };
            read(response).await
        };
        match timeout(PATIENCE, exchange).await {
            Ok(answer) => {
                answer.with_context(|| format!("{} {} at {to}", request.method, request.path))
            }
            Err(_) => bail!(
                "no answer to {} {} at {to} within {} s",
                request.method,
                request.path,
                PATIENCE.as_secs()
            ),
        }
    }
}

async fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to)
        .await
        .with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn read(response: hyper::Response<hyper::body::Incoming>) -> Result<Response> {
    let (head, body) = response.into_parts();
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| {
            (
                name.as_str().to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    Ok(Response {
        status: head.status.as_u16(),
        headers,
        body: body.collect().await?.to_bytes(),
    })
}

/// Sends one request on a new connection.
///
/// # Errors
/// Returns the errors of [`Connection::send`].
pub async fn send(to: SocketAddr, request: &Request) -> Result<Response> {
    Connection::open(to).await?.send(request).await
}
