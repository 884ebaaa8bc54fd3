//! How many of something are where: a count for each shard of each cluster.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::id::{ClusterId, ShardId};
use crate::ledger::hash::BuildFold;

/// A shard of a cluster as one number: the cluster in the upper bits, so that a cluster's shards are neighbours.
fn key(cluster: ClusterId, shard: ShardId) -> u64 {
    u64::from(cluster.0) << 16 | u64::from(shard.0)
}

fn place(key: u64) -> (ClusterId, ShardId) {
    (ClusterId((key >> 16) as u32), ShardId(key as u16))
}

fn cluster_of(key: u64) -> u32 {
    (key >> 16) as u32
}

/// Places that a plain sorted array holds before it becomes a table: an array is smaller, a table faster to change.
const MAX_FEW: usize = 64;

/// Counts by place. A single place is kept without an allocation; all else is shared until it changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Kind);

#[derive(Clone, Debug, Default)]
enum Kind {
    #[default]
    None,
    One(u64, u32),
    More(Arc<More>),
}

#[derive(Clone, Debug)]
enum More {
    /// In ascending order.
    Few(Vec<(u64, u32)>),
    /// Never gone through where the order could matter.
    Many(HashMap<u64, u32, BuildFold>),
}

const COUNTED: &str = "what is given back was taken before, in the same place";

impl Places {
    /// One in one place.
    pub(crate) fn one(cluster: ClusterId, shard: ShardId) -> Self {
        Self(Kind::One(key(cluster, shard), 1))
    }

    /// Whether there is nothing anywhere.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.0, Kind::None)
    }

    /// One more here.
    pub(crate) fn add(&mut self, cluster: ClusterId, shard: ShardId) {
        let key = key(cluster, shard);
        match &mut self.0 {
            Kind::None => self.0 = Kind::One(key, 1),
            Kind::One(at, count) if *at == key => *count += 1,
            Kind::One(at, count) => {
                let mut few = vec![(*at, *count), (key, 1)];
                few.sort_unstable();
                self.0 = Kind::More(Arc::new(More::Few(few)));
            }
            Kind::More(more) => Arc::make_mut(more).add(key),
        }
    }

    /// One less here; there was one.
    pub(crate) fn remove(&mut self, cluster: ClusterId, shard: ShardId) {
        let key = key(cluster, shard);
        match &mut self.0 {
            Kind::None => panic!("{COUNTED}"),
            Kind::One(at, count) => {
                assert_eq!(*at, key, "{COUNTED}");
                *count -= 1;
                if *count == 0 {
                    self.0 = Kind::None;
                }
            }
            Kind::More(more) => {
                if let Some((at, count)) = Arc::make_mut(more).remove(key) {
                    self.0 = Kind::One(at, count);
                }
            }
        }
    }

    /// Every place with its count, in no particular order.
    pub(crate) fn iter(&self) -> Box<dyn Iterator<Item = (ClusterId, ShardId, u32)> + '_> {
        let spread = |(key, count): (u64, u32)| {
            let (cluster, shard) = place(key);
            (cluster, shard, count)
        };
        match &self.0 {
            Kind::None => Box::new(std::iter::empty()),
            Kind::One(key, count) => Box::new(std::iter::once(spread((*key, *count)))),
            Kind::More(more) => match &**more {
                More::Few(few) => Box::new(few.iter().copied().map(spread)),
                More::Many(shards) => Box::new(shards.iter().map(move |(key, count)| spread((*key, *count)))),
            },
        }
    }

    /// How many are in a shard.
    pub(crate) fn in_shard(&self, cluster: ClusterId, shard: ShardId) -> u32 {
        let key = key(cluster, shard);
        match &self.0 {
            Kind::None => 0,
            Kind::One(at, count) => u32::from(*at == key) * count,
            Kind::More(more) => match &**more {
                More::Few(few) => few.binary_search_by_key(&key, |entry| entry.0).map_or(0, |found| few[found].1),
                More::Many(shards) => shards.get(&key).copied().unwrap_or(0),
            },
        }
    }

    /// How many are in a cluster, all of them in its first `shards` shards.
    pub(crate) fn in_cluster(&self, cluster: ClusterId, shards: usize) -> u32 {
        match &self.0 {
            Kind::None => 0,
            Kind::One(at, count) => u32::from(cluster_of(*at) == cluster.0) * count,
            Kind::More(more) => match &**more {
                More::Few(few) => {
                    let start = few.partition_point(|entry| cluster_of(entry.0) < cluster.0);
                    few[start..].iter().take_while(|entry| cluster_of(entry.0) == cluster.0).map(|entry| entry.1).sum()
                }
                More::Many(many) if shards < many.len() => {
                    let first = key(cluster, ShardId(0));
                    (first..first + shards as u64).filter_map(|key| many.get(&key)).sum()
                }
                More::Many(many) => many.iter().filter(|(key, _)| cluster_of(**key) == cluster.0).map(|(_, count)| count).sum(),
            },
        }
    }
}

impl More {
    fn add(&mut self, key: u64) {
        match self {
            Self::Few(few) => match few.binary_search_by_key(&key, |entry| entry.0) {
                Ok(found) => few[found].1 += 1,
                Err(position) if few.len() < MAX_FEW => few.insert(position, (key, 1)),
                Err(_) => {
                    let mut many: HashMap<u64, u32, BuildFold> = few.iter().copied().collect();
                    many.insert(key, 1);
                    *self = Self::Many(many);
                }
            },
            Self::Many(many) => *many.entry(key).or_default() += 1,
        }
    }

    /// Takes one away. If there is a single place left, gives that back.
    fn remove(&mut self, key: u64) -> Option<(u64, u32)> {
        match self {
            Self::Few(few) => {
                let found = few.binary_search_by_key(&key, |entry| entry.0).expect(COUNTED);
                few[found].1 -= 1;
                if few[found].1 == 0 {
                    few.remove(found);
                }
                if let [only] = few[..] { Some(only) } else { None }
            }
            Self::Many(many) => {
                let count = many.get_mut(&key).expect(COUNTED);
                *count -= 1;
                if *count == 0 {
                    many.remove(&key);
                }
                // Well below the bound above, so that one tenant that comes and goes does not switch it to and fro.
                if many.len() <= MAX_FEW / 2 {
                    let mut few: Vec<_> = many.iter().map(|(key, count)| (*key, *count)).collect();
                    few.sort_unstable();
                    *self = Self::Few(few);
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn places_count_like_a_plain_map(steps in prop::collection::vec((0_u32..12, 0_u16..12, prop::bool::weighted(0.7)), 1..600)) {
            let (mut places, mut plain) = (Places::default(), BTreeMap::<(u32, u16), u32>::new());
            for (cluster, shard, more) in steps {
                let count = plain.entry((cluster, shard)).or_default();
                if more {
                    *count += 1;
                    places.add(ClusterId(cluster), ShardId(shard));
                } else if *count > 0 {
                    *count -= 1;
                    places.remove(ClusterId(cluster), ShardId(shard));
                }
                plain.retain(|_, count| *count > 0);
                prop_assert_eq!(places.is_empty(), plain.is_empty());
                let expected: u32 = plain.iter().filter(|((at, _), _)| *at == cluster).map(|(_, count)| count).sum();
                prop_assert_eq!(places.in_cluster(ClusterId(cluster), 12), expected);
                let expected = plain.get(&(cluster, shard)).copied().unwrap_or(0);
                prop_assert_eq!(places.in_shard(ClusterId(cluster), ShardId(shard)), expected);
            }
            let mut listed: Vec<_> = places.iter().map(|(cluster, shard, count)| ((cluster.0, shard.0), count)).collect();
            listed.sort_unstable();
            prop_assert_eq!(listed, plain.into_iter().collect::<Vec<_>>());
        }
    }
}
