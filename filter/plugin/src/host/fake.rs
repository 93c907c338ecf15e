//! Fake proxy for tests: answers the engine from a script and records its actions.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use crate::headers::{self, ProxyRequest};

use super::{CallRefused, Host, HostSignature, HttpCall, Level, MetricId, MetricKind, Reply};

/// A recorded HTTP call of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Called {
    pub(crate) token: u32,
    pub(crate) context: u32,
    pub(crate) cluster: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) timeout: Duration,
}

impl Called {
    pub(crate) fn path(&self) -> &str {
        &self.headers[":path"]
    }
}

/// State of one request in the fake proxy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) reply: Option<Reply>,
    pub(crate) resumed: bool,
}

#[derive(Default)]
struct State {
    now: Cell<Duration>,
    steady: Cell<Duration>,
    random: Cell<u64>,
    level: Cell<Option<Level>>,
    lines: RefCell<Vec<(Level, String)>>,
    configuration: RefCell<Vec<u8>>,
    tick: Cell<Option<Duration>>,
    metrics: RefCell<Vec<(String, u64)>>,
    records: RefCell<Vec<String>>,
    no_metrics: Cell<bool>,
    keeps_headers: Cell<bool>,
    hurries: Cell<bool>,
    context: Cell<u32>,
    streams: RefCell<BTreeMap<u32, Stream>>,
    ended: RefCell<BTreeSet<u32>>,
    complete: RefCell<BTreeSet<u32>>,
    calls: RefCell<Vec<Called>>,
    unreachable: RefCell<BTreeSet<String>>,
    response: RefCell<Option<(u16, Vec<u8>)>>,
    copied: Cell<usize>,
    judge: RefCell<Option<Judge>>,
    judged: Cell<usize>,
}

/// Function that stands for the proxy's signature verification.
pub(crate) type Judge = Box<dyn Fn(&HostSignature<'_>) -> Option<bool>>;

/// Fake proxy. Clones share their state.
#[derive(Clone, Default)]
pub(crate) struct FakeHost(Rc<State>);

/// Initial wall clock: 2025-01-01T00:00:00Z.
pub(crate) const START: u64 = 1_735_689_600;

impl FakeHost {
    pub(crate) fn new() -> Self {
        let host = Self::default();
        host.0.now.set(Duration::from_secs(START));
        host.0.steady.set(Duration::from_secs(777));
        host
    }

    /// Sets the wall clock, as an operator or NTP does. The monotonic clock does not change.
    pub(crate) fn set_wall_clock(&self, now: Duration) {
        self.0.now.set(now);
    }

    pub(crate) fn without_metrics(self) -> Self {
        self.0.no_metrics.set(true);
        self
    }

    /// Lets the wall clock jump ahead by an hour at each reading.
    pub(crate) fn with_hurried_wall_clock(self) -> Self {
        self.0.hurries.set(true);
        self
    }

    /// Makes the proxy refuse to remove or replace request headers.
    pub(crate) fn that_keeps_headers(self) -> Self {
        self.0.keeps_headers.set(true);
        self
    }

    pub(crate) fn with_unreachable(self, cluster: &str) -> Self {
        self.0.unreachable.borrow_mut().insert(cluster.to_owned());
        self
    }

    pub(crate) fn with_log_level(self, level: Level) -> Self {
        self.0.level.set(Some(level));
        self
    }

    pub(crate) fn with_judge(
        self,
        judge: impl Fn(&HostSignature<'_>) -> Option<bool> + 'static,
    ) -> Self {
        *self.0.judge.borrow_mut() = Some(Box::new(judge));
        self
    }

    /// Returns the number of signatures that the engine passed to the judge.
    pub(crate) fn judged(&self) -> usize {
        self.0.judged.get()
    }

    pub(crate) fn configure(&self, text: &str) -> usize {
        *self.0.configuration.borrow_mut() = text.as_bytes().to_vec();
        text.len()
    }

    pub(crate) fn reachable(&self, cluster: &str) {
        self.0.unreachable.borrow_mut().remove(cluster);
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.now.set(self.0.now.get().saturating_add(by));
        self.0.steady.set(self.0.steady.get() + by);
    }

    pub(crate) fn set_random(&self, value: u64) {
        self.0.random.set(value);
    }

    /// Adds a request to the proxy and enters its stream.
    pub(crate) fn request(&self, stream: u32, headers: &[(&str, &str)]) {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect();
        self.request_bytes(stream, headers);
    }

    /// Adds a request whose header values need not be UTF-8, and enters its stream.
    pub(crate) fn request_bytes(&self, stream: u32, headers: Vec<(String, Vec<u8>)>) {
        self.0.streams.borrow_mut().insert(
            stream,
            Stream {
                headers,
                ..Stream::default()
            },
        );
        self.0.context.set(stream);
    }

    /// Ends a context, which is a stream or a root context.
    pub(crate) fn end(&self, context: u32) {
        self.0.streams.borrow_mut().remove(&context);
        self.0.ended.borrow_mut().insert(context);
    }

    /// Ends the request of a stream whose context still exists.
    pub(crate) fn complete(&self, stream: u32) {
        self.0.complete.borrow_mut().insert(stream);
    }

    pub(crate) fn stream(&self, stream: u32) -> Stream {
        self.0.streams.borrow()[&stream].clone()
    }

    /// Sets the response that the next callback of a call will find.
    pub(crate) fn answer(&self, status: u16, body: &[u8]) {
        *self.0.response.borrow_mut() = Some((status, body.to_vec()));
    }

    pub(crate) fn answer_nothing(&self) {
        *self.0.response.borrow_mut() = None;
    }

    pub(crate) fn calls(&self) -> Vec<Called> {
        self.0.calls.borrow().clone()
    }

    pub(crate) fn last_call(&self) -> Called {
        self.calls().last().unwrap().clone()
    }

    pub(crate) fn tick_period(&self) -> Option<Duration> {
        self.0.tick.get()
    }

    pub(crate) fn bytes_copied(&self) -> usize {
        self.0.copied.get()
    }

    pub(crate) fn context(&self) -> u32 {
        self.0.context.get()
    }

    pub(crate) fn has_metric(&self, name: &str) -> bool {
        self.0.metrics.borrow().iter().any(|(key, _)| key == name)
    }

    /// Returns the sum of a counter, or the last value of a gauge or histogram; 0 if undefined.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        self.0
            .metrics
            .borrow()
            .iter()
            .find(|(key, _)| key == name)
            .map_or(0, |(_, value)| *value)
    }

    /// Returns how often a gauge or histogram was recorded.
    pub(crate) fn records(&self, name: &str) -> usize {
        self.0
            .records
            .borrow()
            .iter()
            .filter(|key| *key == name)
            .count()
    }

    pub(crate) fn lines(&self, level: Level) -> Vec<String> {
        let lines = self.0.lines.borrow();
        lines
            .iter()
            .filter(|(of, _)| *of == level)
            .map(|(_, line)| line.clone())
            .collect()
    }
}

impl Host for FakeHost {
    fn now(&self) -> Duration {
        if self.0.hurries.get() {
            self.set_wall_clock(self.0.now.get() + Duration::from_secs(3_600));
        }
        self.0.now.get()
    }

    fn steady(&self) -> Duration {
        self.0.steady.get()
    }

    fn random(&self) -> u64 {
        self.0.random.get()
    }

    fn log(&self, level: Level, message: &str) {
        self.0.lines.borrow_mut().push((level, message.to_owned()));
    }

    fn log_level(&self) -> Level {
        self.0.level.get().unwrap_or(Level::Info)
    }

    fn configuration(&self, size: usize) -> Option<Vec<u8>> {
        Some(
            self.0
                .configuration
                .borrow()
                .iter()
                .copied()
                .take(size)
                .collect(),
        )
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        (path == ["node", "id"]).then(|| b"node-1".to_vec())
    }

    fn set_tick_period(&self, period: Duration) {
        self.0.tick.set(Some(period));
    }

    fn verify_signature(&self, signature: &HostSignature<'_>) -> Option<bool> {
        let judge = self.0.judge.borrow();
        let judge = judge.as_ref()?;
        self.0.judged.set(self.0.judged.get() + 1);
        judge(signature)
    }

    fn define_metric(&self, _kind: MetricKind, name: &str) -> Option<MetricId> {
        if self.0.no_metrics.get() {
            return None;
        }
        let mut metrics = self.0.metrics.borrow_mut();
        let at = metrics
            .iter()
            .position(|(key, _)| key == name)
            .unwrap_or_else(|| {
                metrics.push((name.to_owned(), 0));
                metrics.len() - 1
            });
        Some(MetricId(at.try_into().unwrap()))
    }

    fn increment_metric(&self, metric: MetricId, by: u32) {
        self.0.metrics.borrow_mut()[metric.0 as usize].1 += u64::from(by);
    }

    fn record_metric(&self, metric: MetricId, value: u64) {
        let mut metrics = self.0.metrics.borrow_mut();
        let (name, last) = &mut metrics[metric.0 as usize];
        *last = value;
        self.0.records.borrow_mut().push(name.clone());
    }

    fn enter(&self, context: u32) -> bool {
        let lives = !self.0.ended.borrow().contains(&context);
        if lives {
            self.0.context.set(context);
        }
        lives
    }

    fn request_has_ended(&self) -> bool {
        self.0.complete.borrow().contains(&self.context())
    }

    fn request_headers(&self) -> ProxyRequest {
        headers::request(meshseal_abi::header_map(
            &self.stream(self.context()).headers,
        ))
    }

    fn add_request_header(&self, name: &str, value: &str) -> bool {
        let mut streams = self.0.streams.borrow_mut();
        streams
            .get_mut(&self.context())
            .unwrap()
            .headers
            .push((name.to_owned(), value.as_bytes().to_vec()));
        true
    }

    fn set_request_header(&self, name: &str, value: &[u8]) -> bool {
        if !self.remove_request_header(name) {
            return false;
        }
        let mut streams = self.0.streams.borrow_mut();
        streams
            .get_mut(&self.context())
            .unwrap()
            .headers
            .push((name.to_owned(), value.to_vec()));
        true
    }

    fn remove_request_header(&self, name: &str) -> bool {
        if self.0.keeps_headers.get() {
            return false;
        }
        let mut streams = self.0.streams.borrow_mut();
        streams
            .get_mut(&self.context())
            .unwrap()
            .headers
            .retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        true
    }

    fn respond(&self, reply: &Reply) {
        self.0
            .streams
            .borrow_mut()
            .get_mut(&self.context())
            .unwrap()
            .reply = Some(reply.clone());
    }

    fn resume(&self) {
        self.0
            .streams
            .borrow_mut()
            .get_mut(&self.context())
            .unwrap()
            .resumed = true;
    }

    fn call(&self, call: &HttpCall<'_>) -> Result<u32, CallRefused> {
        if self.0.unreachable.borrow().contains(call.cluster) {
            return Err(CallRefused);
        }
        let mut calls = self.0.calls.borrow_mut();
        let token = u32::try_from(calls.len()).unwrap() + 1;
        calls.push(Called {
            token,
            context: self.context(),
            cluster: call.cluster.to_owned(),
            headers: call
                .headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            timeout: call.timeout,
        });
        Ok(token)
    }

    fn call_header(&self, name: &str) -> Option<Vec<u8>> {
        let response = self.0.response.borrow();
        response
            .as_ref()
            .filter(|_| name == ":status")
            .map(|(status, _)| status.to_string().into_bytes())
    }

    fn call_body(&self, size: usize) -> Option<Vec<u8>> {
        let response = self.0.response.borrow();
        let body: Vec<u8> = response.as_ref()?.1.iter().copied().take(size).collect();
        self.0.copied.set(self.0.copied.get() + body.len());
        Some(body)
    }
}
