//! A real browser, headless, for pages that people read.
//!
//! Speaks Chromium's DevTools protocol over two pipes: JSON messages that end in a
//! zero byte. What is waited for is an answer or an event, never a time. The browser
//! ends with the value, by its id.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// A browser with one page.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Goes with it.
    _profile: tempfile::TempDir,
    session: String,
    next: u64,
    /// Events that came while something else was waited for.
    events: Vec<String>,
}

/// Pipes 3 and 4 are the protocol's; the shell puts our two there.
const LINE: &str = "exec 3<&0 4>&1 </dev/null >/dev/null; exec chromium --headless=new --no-sandbox --disable-gpu \
                    --no-first-run --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe \
                    --user-data-dir=\"$0\" about:blank";

impl Browser {
    /// Starts one.
    ///
    /// # Errors
    /// Chromium is not installed, or does not answer.
    pub fn start() -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let mut child = Command::new("bash")
            .args(["-c", LINE])
            .arg(profile.path())
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("bash")?;
        let to = child.stdin.take().context("a pipe")?;
        let from = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut browser = Self {
            child,
            to,
            from,
            _profile: profile,
            session: String::new(),
            next: 1,
            events: Vec::new(),
        };
        let target = browser
            .call("Target.createTarget", json!({ "url": "about:blank" }))
            .context("chromium does not answer: `scripts/need test` installs it")?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach)?;
        browser.session = attached["sessionId"].as_str().context("a session")?.to_owned();
        browser.call("Page.enable", json!({}))?;
        Ok(browser)
    }

    /// Sets the window's width and whether the page is to be light or dark.
    pub fn look(&mut self, width: u32, scheme: &str) -> Result<()> {
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", metrics)?;
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", media).map(drop)
    }

    /// Opens a page and waits until all of it is there.
    pub fn open(&mut self, url: &str) -> Result<()> {
        self.events.clear();
        let went = self.call("Page.navigate", json!({ "url": url }))?;
        ensure!(went.get("errorText").is_none(), "{url}: {}", went["errorText"]);
        self.event("Page.loadEventFired")
    }

    /// What an expression comes to on the page.
    pub fn ask(&mut self, expression: &str) -> Result<Value> {
        let question = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let said = self.call("Runtime.evaluate", question)?;
        if let Some(wrong) = said.get("exceptionDetails") {
            bail!("{wrong}");
        }
        Ok(said["result"]["value"].clone())
    }

    /// Presses the tabulator key.
    pub fn tab(&mut self) -> Result<()> {
        for kind in ["rawKeyDown", "keyUp"] {
            let key = json!({ "type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9 });
            self.call("Input.dispatchKeyEvent", key)?;
        }
        Ok(())
    }

    /// The whole page as a PNG, in base64.
    pub fn picture(&mut self) -> Result<String> {
        let how = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.call("Page.captureScreenshot", how)?;
        Ok(picture["data"].as_str().unwrap_or_default().to_owned())
    }

    fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        let id = self.next;
        self.next += 1;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.to
            .write_all(&[message.to_string().as_bytes(), b"\0"].concat())?;
        loop {
            let answer = self.message()?;
            if answer["id"] == json!(id) {
                ensure!(answer.get("error").is_none(), "{method}: {}", answer["error"]);
                return Ok(answer["result"].clone());
            }
            self.events.extend(answer["method"].as_str().map(str::to_owned));
        }
    }

    fn event(&mut self, method: &str) -> Result<()> {
        if self.events.iter().any(|came| came == method) {
            return Ok(());
        }
        while self.message()?["method"] != json!(method) {}
        Ok(())
    }

    fn message(&mut self) -> Result<Value> {
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes)?;
        ensure!(bytes.pop() == Some(0), "the browser has ended");
        Ok(serde_json::from_slice(&bytes)?)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its helpers go when it has gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves pages on the loopback until the process ends; where.
///
/// # Errors
/// Nothing can be bound.
pub fn serve(page: impl Fn(&str) -> Option<(&'static str, Vec<u8>)> + Send + 'static) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let at = listener.local_addr()?;
    thread::Builder::new().name("pages".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, &page);
        }
    })?;
    Ok(at)
}

fn answer(
    mut stream: TcpStream,
    page: &impl Fn(&str) -> Option<(&'static str, Vec<u8>)>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = first.split(' ').nth(1).unwrap_or("/");
    let (status, kind, body) = match page(path) {
        Some((kind, body)) => ("200 OK", kind, body),
        None => ("404 Not Found", "text/plain", Vec::new()),
    };
    // As the coordinator's pages: nothing but their own style sheet.
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'self'; img-src 'self' data:\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}
