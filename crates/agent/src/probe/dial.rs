//! What runs in the second pod: tries the three ports again and again until something can be said.

use std::net::IpAddr;
use std::time::Duration;

use roadstead_core::observed::NetworkPolicies;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::judge::{Judge, Reached};
use super::{NO_EGRESS_PORT, NO_INGRESS_PORT, OPEN_PORT};

/// What is denied is mostly not answered at all.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// From the beginning of one round to that of the next.
const ROUND_EVERY: Duration = Duration::from_secs(2);

/// Finds out what is kept from reaching a listener. Ends by itself, after a minute and a half at most.
pub async fn dial(listener: IpAddr) -> NetworkPolicies {
    let mut judge = Judge::default();
    let mut rounds = interval(ROUND_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let reach = |port| reaches(listener, port);
        let (open, no_ingress, no_egress) = tokio::join!(reach(OPEN_PORT), reach(NO_INGRESS_PORT), reach(NO_EGRESS_PORT));
        if let Some(found) = judge.round(Reached { open, no_ingress, no_egress }) {
            return found;
        }
    }
}

async fn reaches(listener: IpAddr, port: u16) -> bool {
    matches!(timeout(ANSWERS_WITHIN, TcpStream::connect((listener, port))).await, Ok(Ok(_)))
}
