//! How a WebSocket begins: one HTTP/1.1 request, answered by 101, or by a refusal that says what is wrong.
//!
//! ```text
//!   not HTTP, no Host, no upgrade, no key          ─▶ 400      another path           ─▶ 404
//!   more than 8 KiB or 64 headers                  ─▶ 431      another method         ─▶ 405 (Allow: GET)
//!   none of our subprotocols offered               ─▶ 400      another version        ─▶ 426 (Sec-WebSocket-Version: 13)
//!   a page of a site that may not (Origin)          ─▶ 403
//! ```
//! The request is read once, when its last line is here, however it was cut. Source: RFC 6455 §4.2; the subprotocol's
//! name is `mqtt` `[MQTT-6.0.0-3]`, and `mqttv3.1` for clients of the time before it had one.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a WebSocket listener asks of those who open it.
#[derive(Clone, Debug)]
pub struct WebSocketRules {
    /// The path: `/mqtt`. A query behind it is ignored.
    pub path: Box<str>,
    /// Whose pages may open it. Clients that are not browsers send no `Origin` and are not asked.
    pub origins: Origins,
    /// Longest frame that is taken; nothing is held on its account, so it bounds the patience only.
    pub frame_bytes_max: u64,
}

impl Default for WebSocketRules {
    fn default() -> Self {
        Self { path: "/mqtt".into(), origins: Origins::Any, frame_bytes_max: 16 << 20 }
    }
}

/// The sites whose pages may open a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// All of them.
    Any,
    /// Those that this machine serves: `http://localhost:3000`, `http://127.0.0.1`, `https://[::1]`. Pages of the Web reach a
    /// listener on loopback too, through the browser of whoever reads them.
    Loopback,
    /// These: `https://example.org`.
    Listed(Vec<Box<str>>),
}

/// A request on its way in.
#[derive(Debug)]
pub(super) struct Upgrade {
    rules: Arc<WebSocketRules>,
    received: Vec<u8>,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// There is more to come.
    Wait,
    /// It is a WebSocket now; so many of the bytes handed in last belong to the request.
    Accept { response: Vec<u8>, used: usize },
    /// It will not be one.
    Refuse { response: Vec<u8> },
}

impl Upgrade {
    pub(super) fn new(rules: Arc<WebSocketRules>) -> Self {
        Self { rules, received: Vec::new() }
    }

    pub(super) fn buffered_bytes(&self) -> usize {
        self.received.len()
    }

    pub(super) fn rules(&self) -> &Arc<WebSocketRules> {
        &self.rules
    }

    pub(super) fn handle_bytes(&mut self, bytes: &[u8]) -> Answer {
        // The end may lie across the border of what was here and what comes.
        let searched = self.received.len().saturating_sub(END.len() - 1);
        let before = self.received.len();
        let room = (REQUEST_BYTES_MAX - before).min(bytes.len());
        self.received.extend_from_slice(&bytes[..room]);
        let found = self.received[searched..].windows(END.len()).position(|window| window == END);
        let Some(at) = found else {
            return match self.received.len() >= REQUEST_BYTES_MAX {
                true => refuse(&Refusal::TooLarge),
                false => Answer::Wait,
            };
        };
        let end = searched + at + END.len();
        match accept(&self.rules, &self.received[..end]) {
            Ok(response) => Answer::Accept { response, used: end - before },
            Err(refusal) => refuse(&refusal),
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Malformed,
    TooLarge,
    Method,
    Path,
    NoUpgrade,
    Version,
    Origin,
    Subprotocol,
}

impl Refusal {
    fn status(self) -> &'static str {
        match self {
            Self::Malformed | Self::NoUpgrade | Self::Subprotocol => "400 Bad Request",
            Self::TooLarge => "431 Request Header Fields Too Large",
            Self::Method => "405 Method Not Allowed\r\nAllow: GET",
            Self::Path => "404 Not Found",
            Self::Version => "426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
            Self::Origin => "403 Forbidden",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Malformed => "This is not a request that opens a WebSocket.\n",
            Self::TooLarge => "The request is too large.\n",
            Self::Method => "A WebSocket is opened by GET.\n",
            Self::Path => "There is no WebSocket here.\n",
            Self::NoUpgrade => "MQTT over WebSocket is served here; this is a request for something else.\n",
            Self::Version => "WebSocket version 13 is spoken here.\n",
            Self::Origin => "Pages of this site may not connect.\n",
            Self::Subprotocol => "The subprotocol mqtt must be offered.\n",
        }
    }
}

fn refuse(refusal: &Refusal) -> Answer {
    let (status, text) = (refusal.status(), refusal.text());
    let response = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
    Answer::Refuse { response: response.into_bytes() }
}

/// The response to a request that may pass.
fn accept(rules: &WebSocketRules, request: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        // The end that httparse sees must be the one that was looked for: it takes bare line feeds for line ends, too.
        Ok(httparse::Status::Complete(bytes)) if bytes == request.len() => {}
        Ok(httparse::Status::Complete(_) | httparse::Status::Partial) => return Err(Refusal::Malformed),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooLarge),
        Err(_) => return Err(Refusal::Malformed),
    }
    if parsed.version != Some(1) {
        return Err(Refusal::Malformed);
    }
    if parsed.method != Some("GET") {
        return Err(Refusal::Method);
    }
    let path = parsed.path.and_then(|path| path.split(['?', '#']).next());
    if path != Some(&*rules.path) {
        return Err(Refusal::Path);
    }
    let headers = Headers(parsed.headers);
    headers.one("host").ok_or(Refusal::Malformed)?;
    if !headers.lists("upgrade", "websocket") || !headers.lists("connection", "upgrade") {
        return Err(Refusal::NoUpgrade);
    }
    if headers.one("sec-websocket-version") != Some("13") {
        return Err(Refusal::Version);
    }
    check_origin(&rules.origins, &headers)?;
    let key = headers.one("sec-websocket-key").filter(|key| is_key(key)).ok_or(Refusal::Malformed)?;
    // Ours, not the client's order `[MQTT-6.0.0-4]`: who offers both gets the standard's name.
    let offers = |name: &&str| headers.words("sec-websocket-protocol").any(|word| word == *name);
    let subprotocol = SUBPROTOCOLS.into_iter().find(offers).ok_or(Refusal::Subprotocol)?;
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n",
        accept_key(key)
    );
    Ok(response.into_bytes())
}

fn check_origin(origins: &Origins, headers: &Headers<'_, '_>) -> Result<(), Refusal> {
    if !headers.has("origin") {
        return Ok(());
    }
    match (origins, headers.one("origin")) {
        (Origins::Any, _) => Ok(()),
        (Origins::Loopback, Some(origin)) if is_loopback(origin) => Ok(()),
        (Origins::Listed(listed), Some(origin))
            if listed.iter().any(|known| known.eq_ignore_ascii_case(origin)) =>
        {
            Ok(())
        }
        _ => Err(Refusal::Origin),
    }
}

/// Whether an origin (RFC 6454 §6.2) is of this machine. Names other than `localhost` and those below it (RFC 6761 §6.3) are
/// not asked for: their owner says whither they lead.
fn is_loopback(origin: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else { return false };
    let parts = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']'),
        None => Some(authority.find(':').map_or((authority, ""), |at| authority.split_at(at))),
    };
    let Some((host, port)) = parts else { return false };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
        return false;
    }
    let name = host.to_ascii_lowercase();
    let is_name = name == "localhost" || name.ends_with(".localhost");
    is_name || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// 16 random bytes in base64.
fn is_key(key: &str) -> bool {
    STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

/// Proves that the request was understood (RFC 6455 §4.2.2): nothing is kept secret by this hash.
fn accept_key(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// The headers of a request; their names are told apart without regard to case.
struct Headers<'h, 'b>(&'h [httparse::Header<'b>]);

impl<'b> Headers<'_, 'b> {
    fn named(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    fn has(&self, name: &str) -> bool {
        self.named(name).next().is_some()
    }

    /// The value of a header that may stand there once.
    fn one(&self, name: &str) -> Option<&'b str> {
        let mut values = self.named(name);
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        core::str::from_utf8(value).ok().map(str::trim)
    }

    /// The words of a list, which may be spread over several headers.
    fn words(&self, name: &str) -> impl Iterator<Item = &'b str> {
        let values = self.named(name).filter_map(|value| core::str::from_utf8(value).ok());
        values.flat_map(|value| value.split(',')).map(str::trim)
    }

    fn lists(&self, name: &str, word: &str) -> bool {
        self.words(name).any(|found| found.eq_ignore_ascii_case(word))
    }
}

const END: &[u8] = b"\r\n\r\n";

/// A browser's request with its cookies; servers of the Web draw the line here too.
const REQUEST_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;

const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [&str; 7] = [
        "GET /mqtt HTTP/1.1",
        "Host: broker.example",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: mqtt",
    ];

    fn request(lines: &[&str]) -> Vec<u8> {
        format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes()
    }

    /// The good request with one line replaced; an empty one takes it away.
    fn with(index: usize, line: &str) -> Vec<u8> {
        let mut lines = GOOD.to_vec();
        lines[index] = line;
        lines.retain(|line| !line.is_empty());
        request(&lines)
    }

    fn answer(rules: WebSocketRules, request: &[u8]) -> String {
        let mut upgrade = Upgrade::new(Arc::new(rules));
        match upgrade.handle_bytes(request) {
            Answer::Accept { response, .. } | Answer::Refuse { response } => {
                String::from_utf8(response).expect("text")
            }
            Answer::Wait => "no answer".to_owned(),
        }
    }

    fn status(request: &[u8]) -> String {
        let answer = answer(WebSocketRules::default(), request);
        answer.lines().next().expect("a line").to_owned()
    }

    #[test]
    fn the_example_of_the_standard_is_answered_as_there() {
        let answer = answer(WebSocketRules::default(), &request(&GOOD));
        let lines: Vec<&str> = answer.split("\r\n").collect();
        assert_eq!(
            lines,
            [
                "HTTP/1.1 101 Switching Protocols",
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                "Sec-WebSocket-Protocol: mqtt",
                "",
                ""
            ]
        );
    }

    #[test]
    fn a_request_may_come_byte_by_byte_and_frames_may_follow_it() {
        let mut upgrade = Upgrade::new(Arc::default());
        let request = request(&GOOD);
        let (last, front) = request.split_last().unwrap();
        for byte in front {
            assert_eq!(upgrade.handle_bytes(&[*byte]), Answer::Wait);
        }
        let Answer::Accept { used, .. } = upgrade.handle_bytes(&[*last, 0x82, 0x80]) else { panic!() };
        assert_eq!(used, 1);
    }

    #[test]
    fn names_and_words_are_told_apart_without_regard_to_case() {
        for accepted in [
            with(0, "GET /mqtt?token=1 HTTP/1.1"),
            with(2, "UPGRADE: WebSocket"),
            with(3, "connection: upgrade"),
            with(6, "sec-websocket-protocol: chat, mqttv3.1, mqtt"),
            with(6, "sec-websocket-protocol: chat\r\nsec-websocket-protocol: mqtt"),
        ] {
            assert_eq!(status(&accepted), "HTTP/1.1 101 Switching Protocols", "{}", accepted.escape_ascii());
        }
    }

    // Covers 5.0: 6.0.0-4
    // Covers 3.1.1: 6.0.0-4
    #[test]
    fn the_subprotocol_is_mqtt_wherever_it_is_offered() {
        for (offered, chosen) in [
            ("mqtt", "mqtt"),
            ("chat, mqtt", "mqtt"),
            ("mqttv3.1, mqtt", "mqtt"),
            // Of clients of 3.1, before the standard.
            ("mqttv3.1", "mqttv3.1"),
        ] {
            let request = with(6, &format!("Sec-WebSocket-Protocol: {offered}"));
            let answer = answer(WebSocketRules::default(), &request);
            assert!(answer.contains(&format!("Sec-WebSocket-Protocol: {chosen}\r\n")), "{answer}");
        }
    }

    #[test]
    fn each_refusal_has_its_status() {
        let cases = [
            (with(0, "POST /mqtt HTTP/1.1"), "405 Method Not Allowed"),
            (with(0, "GET / HTTP/1.1"), "404 Not Found"),
            (with(0, "GET /mqtt/ HTTP/1.1"), "404 Not Found"),
            (with(0, "GET /mqtt HTTP/1.0"), "400 Bad Request"),
            (with(0, "MQTT"), "400 Bad Request"),
            (with(1, ""), "400 Bad Request"),
            (with(2, ""), "400 Bad Request"),
            (with(2, "Upgrade: h2c"), "400 Bad Request"),
            (with(3, "Connection: keep-alive"), "400 Bad Request"),
            (with(4, ""), "400 Bad Request"),
            (with(4, "Sec-WebSocket-Key: c2hvcnQ="), "400 Bad Request"),
            (with(4, "Sec-WebSocket-Key: not base64 at all!!"), "400 Bad Request"),
            (with(5, "Sec-WebSocket-Version: 8"), "426 Upgrade Required"),
            (with(5, ""), "426 Upgrade Required"),
            (with(6, ""), "400 Bad Request"),
            (with(6, "Sec-WebSocket-Protocol: wamp"), "400 Bad Request"),
            (with(6, &["X: y"; 70].join("\r\n")), "431 Request Header Fields Too Large"),
            (with(6, &format!("Cookie: {}", "x".repeat(9_000))), "431 Request Header Fields Too Large"),
        ];
        for (request, expected) in cases {
            assert_eq!(status(&request), format!("HTTP/1.1 {expected}"), "{}", request.escape_ascii());
        }
    }

    #[test]
    fn a_request_without_an_end_is_refused_at_its_limit() {
        let mut upgrade = Upgrade::new(Arc::default());
        for _ in 0..REQUEST_BYTES_MAX - 1 {
            assert_eq!(upgrade.handle_bytes(b"G"), Answer::Wait);
        }
        assert!(matches!(upgrade.handle_bytes(b"G"), Answer::Refuse { .. }));
    }

    #[test]
    fn pages_of_other_sites_are_refused_where_sites_are_listed() {
        let rules = || WebSocketRules {
            origins: Origins::Listed(vec!["https://example.org".into()]),
            ..WebSocketRules::default()
        };
        let from = |origin: &str| with(1, &format!("Host: x\r\nOrigin: {origin}"));
        let cases = [
            (from("https://example.org"), "101"),
            (from("https://example.org.evil.example"), "403"),
            (from("https://example.org\r\nOrigin: https://example.org"), "403"),
            (from("null"), "403"),
            (request(&GOOD), "101"),
        ];
        for (request, expected) in cases {
            assert_eq!(&answer(rules(), &request)[9..12], expected, "{}", request.escape_ascii());
        }
        assert_eq!(&answer(WebSocketRules::default(), &from("null"))[9..12], "101");
    }

    #[test]
    fn on_loopback_only_pages_of_this_machine_pass() {
        let rules = || WebSocketRules { origins: Origins::Loopback, ..WebSocketRules::default() };
        let status = |request: &[u8]| answer(rules(), request)[9..12].to_owned();
        let from = |origin: &str| with(1, &format!("Host: x\r\nOrigin: {origin}"));
        for origin in [
            "http://localhost",
            "https://LOCALHOST:3000",
            "http://app.localhost:8080",
            "http://127.0.0.1:8000",
            "http://127.8.9.1",
            "https://[::1]",
            "http://[::1]:443",
        ] {
            assert_eq!(status(&from(origin)), "101", "{origin}");
        }
        for origin in [
            "https://evil.example",
            "null",
            "",
            "localhost",
            "http://localhost.evil.example",
            "http://evillocalhost",
            "http://127.0.0.1.evil.example",
            "http://127.0.0.1@evil.example",
            "http://localhost:80@evil.example",
            "http://[::1]evil.example",
            "http://[::1",
            "http://[2001:db8::1]",
            "http://192.0.2.1:127",
            "http://localhost\r\nOrigin: http://localhost",
        ] {
            assert_eq!(status(&from(origin)), "403", "{origin}");
        }
        assert_eq!(status(&request(&GOOD)), "101", "no browser");
    }
}
