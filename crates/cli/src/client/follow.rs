//! A watch that goes on with the next replica when one goes away: no gap and no duplicate.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use roadstead_api::v1;
use tonic::{Code, Status, Streaming};

use super::Client;
use super::silence::{NOTICE_AFTER, Silence};
use crate::failure::{Exit, Failure};

/// Pause before the next replica is asked.
const PAUSE: Duration = Duration::from_millis(100);

/// What a watch says.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// Something changed, or is part of the initial state.
    Event(v1::Revision, Box<v1::WatchEvent>),
    /// The initial state is complete as of this revision.
    InitialStateComplete(v1::Revision),
    /// The replica went away in the middle of the initial state: forget what was said of it, it begins again.
    InitialStateBeginsAgain,
}

/// A watch over all replicas.
pub struct Follow {
    client: Client,
    request: v1::WatchRequest,
    stream: Option<Streaming<v1::WatchResponse>>,
    waiting: VecDeque<Heard>,
    /// Whether the initial state was asked for and has not come whole.
    initial_pending: bool,
    /// The last position: a revision, and the last ordinal of it if more may follow.
    position: Option<(v1::Revision, u32)>,
    /// Since when no replica answers.
    silent_since: Option<Instant>,
    /// Who does not answer since then, and whether it was told.
    silence: Silence,
    told: bool,
}

impl Follow {
    /// Prepares a watch; it begins at the first [`Self::next`].
    #[must_use]
    pub fn new(client: Client, request: v1::WatchRequest) -> Self {
        let initial_pending = request.with_initial_state;
        let position = request.after.map(|after| (after, request.after_ordinal));
        Self {
            client,
            request,
            stream: None,
            waiting: VecDeque::new(),
            initial_pending,
            position,
            silent_since: None,
            silence: Silence::default(),
            told: false,
        }
    }

    /// The next thing that is said.
    ///
    /// # Errors
    /// A refusal, a history that no longer reaches back (`compacted`), or no replica for as long as a call is tried.
    pub async fn next(&mut self) -> Result<Heard, Failure> {
        loop {
            if let Some(heard) = self.waiting.pop_front() {
                return Ok(heard);
            }
            let Some(stream) = &mut self.stream else {
                self.begin().await?;
                continue;
            };
            match stream.message().await {
                Ok(Some(response)) => self.take(response),
                Ok(None) => self.stream = None,
                Err(status) => self.lost(&status).await?,
            }
        }
    }

    async fn begin(&mut self) -> Result<(), Failure> {
        let mut request = self.request.clone();
        request.with_initial_state = self.initial_pending;
        if !self.initial_pending
            && let Some((after, ordinal)) = self.position
        {
            (request.after, request.after_ordinal) = (Some(after), ordinal);
        }
        match self.client.services().placement().watch(request).await {
            Ok(response) => {
                self.stream = Some(response.into_inner());
                Ok(())
            }
            Err(status) => self.lost(&status).await,
        }
    }

    fn take(&mut self, response: v1::WatchResponse) {
        (self.silent_since, self.told) = (None, false);
        self.silence = Silence::default();
        let revision = response.revision.unwrap_or_default();
        let last = response.events.iter().map(|event| event.ordinal).max().unwrap_or(0);
        self.waiting.extend(response.events.into_iter().map(|event| Heard::Event(revision, Box::new(event))));
        if response.initial_state_complete {
            self.initial_pending = false;
            self.waiting.push_back(Heard::InitialStateComplete(revision));
        }
        self.position = Some((revision, if response.partial { last } else { 0 }));
    }

    /// Turns to the next replica, unless the status is a refusal.
    async fn lost(&mut self, status: &Status) -> Result<(), Failure> {
        self.stream = None;
        let passing = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted)
            || crate::failure::retry_delay(status).is_some();
        if !passing {
            let mut failure = self.client.failure("watch", status);
            if status.code() == Code::OutOfRange {
                failure.exit = Exit::Failed;
                failure.hints.push("begin anew with --initial".to_owned());
            }
            return Err(failure);
        }
        if self.initial_pending && self.position.take().is_some() {
            // Half of an initial state cannot be resumed.
            self.waiting.clear();
            self.waiting.push_back(Heard::InitialStateBeginsAgain);
        }
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        let (reason, answered) = super::reason_of(status);
        self.silence.failed(self.client.server(), reason, answered);
        if since.elapsed() > self.client.timeout() {
            return Err(match self.silence.is_broken() {
                true => self.client.failure("watch", status),
                false => self.client.nobody_answered("watch", status, &self.silence),
            });
        }
        if since.elapsed() > NOTICE_AFTER && self.client.inner.watched && !std::mem::replace(&mut self.told, true) {
            super::tell_of_silence(&self.silence, since + self.client.timeout());
        }
        self.client.advance();
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}
