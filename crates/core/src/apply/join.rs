//! Tokens by which clusters' agents are let in: made, and exchanged once.

use super::{Applier, Fate, invalid, not_found};
use crate::cluster::Cluster;
use crate::command::{Done, Kind, Rejection};
use crate::id::Name;
use crate::join::{JoinToken, MAX_UID_BYTES, Spending};
use crate::state::State;
use crate::time::Timestamp;

impl Applier<'_> {
    pub(super) fn put_token(&mut self, name: &Name, token: &JoinToken) -> Fate {
        let cluster = check_token(self.state, name, token)?;
        let (id, changed) = (cluster.id, cluster.changed);
        if self.state.tokens.get(id).is_some_and(|known| known.digest == token.digest) {
            // Told again, also one that was used: it is not to be used again.
            return Ok(Done::Changed { revision: changed });
        }
        self.state.tokens.put(id, token.clone());
        Ok(self.done())
    }

    pub(super) fn spend_token(&mut self, spending: &Spending) -> Fate {
        let (cluster, token) = check_spending(self.state, spending, self.time())?;
        if token.spent.is_some() {
            return Ok(Done::Changed { revision: cluster.changed });
        }
        let (cluster, mut token) = (cluster.clone(), token.clone());
        token.spent = Some(spending.by.clone());
        self.state.tokens.put(cluster.id, token);
        if cluster.spec.uid.is_empty() {
            let mut after = cluster;
            after.spec.uid.clone_from(&spending.by.uid);
            after.changed = self.revision();
            self.keep_cluster(after);
        }
        Ok(self.done())
    }
}

/// Whether a token may be made: the cluster is declared, and is not known to be another one.
pub(crate) fn check_token<'a>(state: &'a State, name: &Name, token: &JoinToken) -> Result<&'a Cluster, Rejection> {
    let cluster = state.cluster(name.as_str()).ok_or_else(|| not_found(Kind::Cluster, name.as_str()))?;
    if token.uid.len() > MAX_UID_BYTES {
        return Err(invalid("uid", format!("is longer than {MAX_UID_BYTES} bytes")));
    }
    if !token.uid.is_empty() {
        check_identity(state, cluster, &token.uid)?;
    }
    Ok(cluster)
}

/// Whether a token may be exchanged at this time: for the cluster it was made for, in time, by who has not been beaten to it.
pub(crate) fn check_spending<'a>(state: &'a State, spending: &Spending, now: Timestamp) -> Result<(&'a Cluster, &'a JoinToken), Rejection> {
    let Spending { cluster: name, token: digest, by } = spending;
    let refused = |problem: &str| invalid("token", format!("{problem}; make a new one with `roadstead join {name}`"));
    if by.uid.is_empty() || by.uid.len() > MAX_UID_BYTES {
        return Err(invalid("uid", format!("must have 1 to {MAX_UID_BYTES} bytes")));
    }
    let cluster = state.cluster(name.as_str());
    let found = cluster.and_then(|cluster| Some((&**cluster, state.tokens.get(cluster.id)?)));
    // Whoever has no token learns nothing of which clusters there are.
    let Some((cluster, token)) = found.filter(|(_, token)| token.digest == *digest) else {
        return Err(refused("is none of this cluster: a newer one has taken its place, or it is another cluster's"));
    };
    if token.until <= now {
        return Err(refused("has expired"));
    }
    if token.spent.as_ref().is_some_and(|spent| spent != by) {
        return Err(refused("was used already, by another key: each is good once"));
    }
    if !token.uid.is_empty() && token.uid != by.uid {
        let problem = format!("{:?} is not the {:?} that this token is for: join the cluster that it was made for", by.uid, token.uid);
        return Err(invalid("uid", problem));
    }
    check_identity(state, cluster, &by.uid)?;
    Ok((cluster, token))
}

/// A cluster comes back as itself only, and is not two.
fn check_identity(state: &State, cluster: &Cluster, uid: &str) -> Result<(), Rejection> {
    let (name, known) = (&cluster.spec.name, &cluster.spec.uid);
    if !known.is_empty() && known != uid {
        let problem = format!(
            "{uid:?} is not the {known:?} that cluster {:?} is known by: a copy takes another name; where the old one is gone for good, \
             `roadstead forget {name} --i-know` and declare it again",
            name.as_str()
        );
        return Err(invalid("uid", problem));
    }
    let twin = state.clusters().find(|other| other.spec.uid == uid && other.id != cluster.id);
    match twin {
        None => Ok(()),
        Some(twin) => Err(invalid("uid", format!("{uid:?} is the uid of cluster {:?}: join it by that name", twin.spec.name.as_str()))),
    }
}
