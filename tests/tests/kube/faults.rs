//! What may go wrong between an interpreter and its API server: a layer below the client that withholds what watches bring, cuts them, is
//! slow, holds requests back, loses answers, or answers instead of the server.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use kube::client::{Body, DynBody};
use tokio::sync::Notify;
use tonic::codegen::http::request::Parts;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Body as HttpBody, Bytes, StdError};
use tower::{Layer, Service};

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The server never hears of it; it is answered so: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// It is carried out, so much later.
    Slow(Duration),
    /// It is carried out once this has been notified; one notification lets one go on.
    Held(Arc<Notify>),
    /// It is carried out, and nobody hears of it.
    LostAnswer,
    /// Of a watch: what it brings is withheld until [`Faults::clear`].
    Withheld,
}

type Rule = (Box<dyn Fn(&Parts) -> bool + Send>, Fault);

#[derive(Default)]
struct Inner {
    rules: Vec<Rule>,
    withholds: bool,
    /// Watches that began before this are over.
    cut: u64,
    watches: u64,
    waiting: Vec<Waker>,
    /// The requests of late.
    seen: VecDeque<Seen>,
}

/// A request.
struct Seen {
    method: String,
    path: String,
    watches: bool,
    at: Instant,
}

/// How many requests are remembered.
const REMEMBERED: usize = 10_000;

/// What goes wrong for one client. Nothing at first.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Inner>>);

/// Whether a request is a watch.
pub(crate) fn is_watch(request: &Parts) -> bool {
    request.uri.query().is_some_and(|query| query.contains("watch=true"))
}

impl Faults {
    fn inner<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this happens to all requests of which it holds; the rule that was added last counts.
    pub(crate) fn add(&self, of: impl Fn(&Parts) -> bool + Send + 'static, fault: Fault) {
        self.inner(|inner| {
            inner.withholds |= matches!(fault, Fault::Withheld);
            inner.rules.push((Box::new(of), fault));
        });
    }

    /// What watches of this resource bring is withheld, also of those that are there.
    pub(crate) fn withhold(&self, resource: &'static str) {
        let path = format!("/{resource}");
        self.add(move |request| is_watch(request) && request.uri.path().ends_with(&path), Fault::Withheld);
        self.cut();
    }

    /// All watches that are there end.
    pub(crate) fn cut(&self) {
        self.inner(|inner| {
            inner.cut = inner.watches;
            inner.waiting.drain(..).for_each(Waker::wake);
        });
    }

    /// All is well again.
    pub(crate) fn clear(&self) {
        self.inner(|inner| {
            inner.rules.clear();
            inner.withholds = false;
            inner.waiting.drain(..).for_each(Waker::wake);
        });
    }

    /// How many requests so far had this method and a path that ends so; of the last [`REMEMBERED`].
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        self.inner(|inner| inner.seen.iter().filter(|seen| seen.method == method && seen.path.ends_with(path)).count())
    }

    /// How many lists so far had a path that ends so; of the last [`REMEMBERED`] requests.
    pub(crate) fn lists(&self, path: &str) -> usize {
        self.inner(|inner| inner.seen.iter().filter(|seen| seen.method == "GET" && !seen.watches && seen.path.ends_with(path)).count())
    }

    /// When the first request that wrote something under this path was made.
    pub(crate) fn first_write(&self, path: &str) -> Option<Instant> {
        let writes = |seen: &&Seen| seen.method != "GET" && (seen.path == path || seen.path.starts_with(&format!("{path}/")));
        self.inner(|inner| inner.seen.iter().find(writes).map(|seen| seen.at))
    }
}

impl<S> Layer<S> for Faults {
    type Service = Faulty<S>;

    fn layer(&self, service: S) -> Self::Service {
        Faulty { faults: self.clone(), service }
    }
}

/// See [`Faults`].
pub(crate) struct Faulty<S> {
    faults: Faults,
    service: S,
}

impl<S> Service<Request<Body>> for Faulty<S>
where
    S: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = StdError>,
    S::Future: Send + 'static,
{
    type Response = Response<Box<DynBody>>;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, StdError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let (fault, number) = self.faults.inner(|inner| {
            if inner.seen.len() == REMEMBERED {
                inner.seen.pop_front();
            }
            let (method, path) = (parts.method.to_string(), parts.uri.path().to_owned());
            inner.seen.push_back(Seen { method, path, watches: is_watch(&parts), at: Instant::now() });
            inner.watches += u64::from(is_watch(&parts));
            (inner.rules.iter().rev().find(|(of, _)| of(&parts)).map(|(_, fault)| fault.clone()), inner.watches)
        });
        let (watches, faults) = (is_watch(&parts), self.faults.clone());
        if let Some(Fault::Answer(status, headers, text)) = fault {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            let body: Box<DynBody> = Box::new(Once(Some(Bytes::from(text))));
            return Box::pin(std::future::ready(response.body(body).map_err(StdError::from)));
        }
        let carried_out = self.service.call(Request::from_parts(parts, body));
        Box::pin(async move {
            if let Some(Fault::Slow(by)) = &fault {
                tokio::time::sleep(*by).await;
            }
            if let Some(Fault::Held(until)) = &fault {
                until.notified().await;
            }
            let response = carried_out.await?;
            if matches!(fault, Some(Fault::LostAnswer)) {
                return Err("the connection was lost".into());
            }
            let withheld = matches!(fault, Some(Fault::Withheld));
            let gate = |body| Box::new(Gate { body, faults, withheld, number }) as Box<DynBody>;
            Ok(if watches { response.map(gate) } else { response })
        })
    }
}

/// A body that is known.
struct Once(Option<Bytes>);

impl HttpBody for Once {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame, StdError>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

type Frame = http_body::Frame<Bytes>;

/// What a watch brings, held back or cut off.
struct Gate {
    body: Box<DynBody>,
    faults: Faults,
    withheld: bool,
    number: u64,
}

impl HttpBody for Gate {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame, StdError>>> {
        let (withheld, number) = (self.withheld, self.number);
        let (is_cut, is_held) = self.faults.inner(|inner| {
            inner.waiting.push(context.waker().clone());
            (number <= inner.cut, withheld && inner.withholds)
        });
        if is_cut {
            return Poll::Ready(None);
        }
        if is_held {
            return Poll::Pending;
        }
        Pin::new(&mut self.body).poll_frame(context)
    }
}
