//! Finding the leader: for what only it knows, and for what only it does.
//!
//! Any replica names the leader and the address at which clients reach it.

use std::time::Duration;

use roadstead_api::v1;

use super::silence::Silence;
use super::{ATTEMPT_TIMEOUT, Client, Services, services, with_causes};
use crate::failure::{Exit, Failure};

/// How often is asked who leads, before it is said that nobody does.
const ASKS: u32 = 3;
/// Pause between two of them: longer than an election takes.
const PAUSE: Duration = Duration::from_millis(400);
/// How long replicas from which nothing came in time may take to say whether they know a leader: that is at hand.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// What to do where nobody leads.
const MAJORITY: &str = "see that a majority of the members runs: `roadstead admin status --every-replica`";

/// Who answered to the question how things are.
pub enum Answered {
    /// The leader, which knows of the others.
    Leader(Services, v1::GetStatusResponse),
    /// Another, and why it is not the leader.
    Other(v1::GetStatusResponse, String),
}

impl Client {
    /// Asks the leader how things are; another replica, if there is none or it does not answer.
    ///
    /// # Errors
    /// No replica answers at all.
    pub async fn ask_leader(&self) -> Result<Answered, Failure> {
        let mut asked = 1;
        loop {
            let (status, why) = match self.ask_leader_once().await? {
                Answered::Leader(services, status) => return Ok(Answered::Leader(services, status)),
                Answered::Other(status, why) => (status, why),
            };
            if asked == ASKS {
                return Ok(Answered::Other(status, why));
            }
            asked += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The leader's services.
    ///
    /// # Errors
    /// There is none, or it does not answer.
    pub async fn leader(&self) -> Result<Services, Failure> {
        match self.ask_leader().await? {
            Answered::Leader(services, _) => Ok(services),
            Answered::Other(_, why) => Err(no_leader(&why)),
        }
    }

    async fn ask_leader_once(&self) -> Result<Answered, Failure> {
        let first = self.status().await?;
        if leads(&first) {
            return Ok(Answered::Leader(self.services(), first));
        }
        let Some(leader) = first.members.iter().find(|member| member.leader).cloned() else {
            let why = format!("member {} answered, and knows of none", first.member_id);
            return Ok(Answered::Other(first, why));
        };
        let address = &leader.client_address;
        let services = self.services_of(address)?;
        Ok(match status_of(&services).await {
            Ok(status) if leads(&status) => Answered::Leader(services, status),
            Ok(_) => Answered::Other(first, format!("{address} has just ceased to lead")),
            Err(why) => Answered::Other(first, format!("member {} led last, and does not answer at {address}: {why}", leader.id)),
        })
    }

    /// Whether replicas answer and none of them knows a leader; it is noted of each that said nothing itself. Those that were tried are asked.
    pub(super) async fn know_no_leader(&self, silence: &mut Silence) -> bool {
        let tried = silence.servers();
        let each = self.inner.servers.iter().filter(|(server, _)| tried.contains(server)).map(|(server, services)| async move {
            let mut admin = services.admin();
            let answer = tokio::time::timeout(PROBE_TIMEOUT, admin.get_status(v1::GetStatusRequest {})).await;
            answer.ok()?.ok().map(|status| (server, status.into_inner().members.iter().any(|member| member.leader)))
        });
        let answers: Vec<(&String, bool)> = futures::future::join_all(each).await.into_iter().flatten().collect();
        if answers.is_empty() || answers.iter().any(|(_, knows_one)| *knows_one) {
            return false;
        }
        answers.iter().for_each(|(server, _)| silence.cut_off(server, "answers, but knows no leader".to_owned()));
        true
    }

    /// The services of the replica at an address, whether the context names it or not.
    fn services_of(&self, address: &str) -> Result<Services, Failure> {
        match self.inner.servers.iter().find(|(server, _)| server == address) {
            Some((_, known)) => Ok(known.clone()),
            None => services(address, &self.inner.tls, &self.inner.certificate),
        }
    }

    /// What each replica of the context says by itself: its address, and its status or why there is none.
    pub async fn status_of_each(&self) -> Vec<(String, Result<v1::GetStatusResponse, String>)> {
        let each = self.inner.servers.iter().map(|(server, services)| async move { (server.clone(), status_of(services).await) });
        futures::future::join_all(each).await
    }

    /// The same of all members: those that the context does not name are asked at the address that they have for clients.
    ///
    /// # Errors
    /// A member's address is none.
    pub async fn status_of_members(&self) -> Result<Vec<(String, Result<v1::GetStatusResponse, String>)>, Failure> {
        let mut answers = self.status_of_each().await;
        let found: Vec<&v1::GetStatusResponse> = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
        let has_answered = |member: &v1::Member| found.iter().any(|status| status.member_id == member.id);
        let members = found.iter().max_by_key(|status| status.committed).map(|status| status.members.clone()).unwrap_or_default();
        let silent: Vec<v1::Member> = members.into_iter().filter(|member| !has_answered(member)).collect();
        let others = silent.into_iter().filter(|member| !answers.iter().any(|(server, _)| *server == member.client_address));
        let others = others.map(|member| Ok((self.services_of(&member.client_address)?, member.client_address)));
        let others = others.collect::<Result<Vec<_>, Failure>>()?;
        let each = others.into_iter().map(|(services, address)| async move { (address, status_of(&services).await) });
        answers.extend(futures::future::join_all(each).await);
        Ok(answers)
    }
}

/// That there is no leader, and why.
#[must_use]
pub fn no_leader(why: &str) -> Failure {
    Failure::new(Exit::Unavailable, format!("no leader: {why}")).hint(MAJORITY)
}

/// That nothing came of a call since nobody leads, with what each replica said.
pub(super) fn nobody_leads(what: &str, silence: &Silence) -> Failure {
    Failure::new(Exit::Unavailable, format!("{what}: no leader{}", silence.lines())).hint(MAJORITY)
}

/// Whether who answered leads.
fn leads(status: &v1::GetStatusResponse) -> bool {
    status.members.iter().any(|member| member.leader && member.id == status.member_id)
}

async fn status_of(services: &Services) -> Result<v1::GetStatusResponse, String> {
    let mut admin = services.admin();
    match tokio::time::timeout(ATTEMPT_TIMEOUT, admin.get_status(v1::GetStatusRequest {})).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(std::error::Error::source(&status).map_or_else(|| status.message().to_owned(), with_causes)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}
