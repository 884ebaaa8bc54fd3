//! The agent's conversation with the placement service: dials out, follows the intent, tells what is there; goes on at the next replica when
//! one does not answer.
//!
//! Nothing here is remembered over a break: a new stream begins with the whole intent, and what was told is told anew.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use roadstead_api::v1;
use roadstead_api::v1::agent_service_client::AgentServiceClient;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tracing::{debug, error, info, warn};

use crate::engine::{Heard, QUEUE};

/// How long a stream may be silent: three signs of life are lost then.
const SILENCE: Duration = Duration::from_secs(16);
/// How long a replica may take to take in what is told; it waits for a leader itself for less.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// The first pause before another attempt; it doubles up to [`LONGEST_PAUSE`], with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The pause after a refusal that asking again does not mend: a copy of a cluster, one that is not declared.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(15);
/// The largest message: a class with a template and a schema of 1 MiB each, and room.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The replicas, with the certificates of now: asked for anew with each connection, so that renewed ones are used.
pub type Replicas = Arc<dyn Fn() -> Result<Vec<Endpoint>, String> + Send + Sync>;

/// Which cluster this is, and how to reach the placement service.
#[derive(Clone)]
pub struct Session {
    /// UID of the cluster's `kube-system`, or what stands for it.
    pub uid: String,
    /// See [`Replicas`].
    pub replicas: Replicas,
}

/// A pause that grows.
struct Pause(Duration);

impl Pause {
    fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    async fn rest(&mut self) {
        let jitter = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(self.0.mul_f64(jitter)).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

/// Whether asking again does not mend it.
fn is_refusal(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::NotFound | Code::PermissionDenied | Code::Unimplemented | Code::Unauthenticated)
}

impl Session {
    /// Follows and tells until the engine is gone.
    pub async fn run(self, heard: mpsc::Sender<Heard>, tell: mpsc::Receiver<v1::ObserveRequest>) {
        tokio::join!(self.follow(heard.clone()), self.tell(heard, tell));
    }

    /// A connection to the next replica after `last`.
    fn next(&self, last: &mut usize) -> Result<AgentServiceClient<Channel>, String> {
        let replicas = (self.replicas)()?;
        *last = last.wrapping_add(1);
        let endpoint = replicas.get(*last % replicas.len().max(1)).ok_or("no replica is named")?;
        Ok(AgentServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    async fn follow(&self, heard: mpsc::Sender<Heard>) {
        let (mut pause, mut last) = (Pause::new(), rand::rng().random_range(0..64));
        while !heard.is_closed() {
            let ended = match self.next(&mut last) {
                Ok(mut client) => tokio::select! {
                    ended = self.follow_one(&mut client, &heard, &mut pause) => ended,
                    () = heard.closed() => return,
                },
                Err(why) => Err(Status::unavailable(why)),
            };
            let Err(status) = ended else { return };
            if is_refusal(&status) {
                error!(code = ?status.code(), why = status.message(), "the placement service refuses this agent; its tenants keep running as they are");
                tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
            } else {
                warn!(code = ?status.code(), why = status.message(), "the intent is not heard any more; the next replica is asked");
                pause.rest().await;
            }
        }
    }

    /// Until the stream breaks; `Ok` when nobody listens any more.
    async fn follow_one(
        &self,
        client: &mut AgentServiceClient<Channel>,
        heard: &mpsc::Sender<Heard>,
        pause: &mut Pause,
    ) -> Result<(), Status> {
        let request = v1::WatchIntentRequest { uid: self.uid.clone() };
        let begun = tokio::time::timeout(ANSWER_WITHIN, client.watch_intent(request)).await;
        let mut stream = begun.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner();
        if heard.send(Heard::Begins).await.is_err() {
            return Ok(());
        }
        info!("the intent is followed");
        let (answer, mut answers) = mpsc::channel(QUEUE);
        loop {
            let message = tokio::select! {
                message = tokio::time::timeout(SILENCE, stream.message()) => message.map_err(|_| Status::deadline_exceeded("silence"))??,
                Some(answer) = answers.recv() => {
                    // Where the question came from: nobody else waits for the answer.
                    let answered = tokio::time::timeout(ANSWER_WITHIN, client.answer_diff(answer)).await;
                    if !matches!(answered, Ok(Ok(_))) {
                        debug!("an answer was not taken; whoever asked has gone, or asks again");
                    }
                    continue;
                }
            };
            let mut message = message.ok_or_else(|| Status::unavailable("the stream has ended"))?;
            *pause = Pause::new();
            for question in std::mem::take(&mut message.questions) {
                if heard.send(Heard::Question(Box::new(question), answer.clone())).await.is_err() {
                    return Ok(());
                }
            }
            if heard.send(Heard::Intent(Box::new(message))).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn tell(&self, heard: mpsc::Sender<Heard>, mut tell: mpsc::Receiver<v1::ObserveRequest>) {
        let (mut pause, mut last) = (Pause::new(), rand::rng().random_range(0..64));
        let mut client = None;
        while let Some(message) = tell.recv().await {
            let answer = match client.take().map_or_else(|| self.next(&mut last), Ok) {
                Ok(mut replica) => {
                    let told = tokio::time::timeout(ANSWER_WITHIN, replica.observe(message)).await;
                    let told = told.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
                    if told.is_ok() {
                        client = Some(replica);
                    }
                    told
                }
                Err(why) => Err(Status::unavailable(why)),
            };
            let answer = match answer {
                Ok(answer) => {
                    pause = Pause::new();
                    Heard::Taken(answer.into_inner())
                }
                Err(status) => {
                    if is_refusal(&status) {
                        error!(code = ?status.code(), why = status.message(), "the placement service refuses what this agent tells");
                        tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
                    } else {
                        warn!(code = ?status.code(), why = status.message(), "what was told was not taken; it is told again");
                        pause.rest().await;
                    }
                    Heard::Lost
                }
            };
            if heard.send(answer).await.is_err() {
                return;
            }
        }
    }
}
