//! How many of something are where: a count for each shard of each cluster.

use crate::id::{ClusterId, ShardId};

/// A shard of a cluster as one number: the cluster in the upper bits, so that a cluster's shards are neighbours.
fn key(cluster: ClusterId, shard: ShardId) -> u64 {
    u64::from(cluster.0) << 16 | u64::from(shard.0)
}

fn place(key: u64) -> (ClusterId, ShardId) {
    (ClusterId((key >> 16) as u32), ShardId(key as u16))
}

/// Places that a plain sorted array holds before it becomes a tree.
///
/// A tree copies less when a shared one is changed; an array is smaller and faster.
const MAX_FEW: usize = 64;

/// Counts by place. Most tenants are in one place and most owners in a few.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Kind);

#[derive(Clone, Debug, Default)]
enum Kind {
    #[default]
    None,
    One(u64, u32),
    Few(Vec<(u64, u32)>),
    Many(imbl::OrdMap<u64, u32>),
}

impl Places {
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
                self.0 = Kind::Few(few);
            }
            Kind::Few(few) => match few.binary_search_by_key(&key, |entry| entry.0) {
                Ok(found) => few[found].1 += 1,
                Err(position) if few.len() < MAX_FEW => few.insert(position, (key, 1)),
                Err(_) => {
                    let mut many: imbl::OrdMap<u64, u32> = few.iter().copied().collect();
                    many.insert(key, 1);
                    self.0 = Kind::Many(many);
                }
            },
            Kind::Many(many) => *many.entry(key).or_insert(0) += 1,
        }
    }

    /// One less here; there was one.
    pub(crate) fn remove(&mut self, cluster: ClusterId, shard: ShardId) {
        const COUNTED: &str = "what is given back was taken before, in the same place";
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
            Kind::Few(few) => {
                let found = few.binary_search_by_key(&key, |entry| entry.0).expect(COUNTED);
                few[found].1 -= 1;
                if few[found].1 == 0 {
                    few.remove(found);
                    if let [(at, count)] = few[..] {
                        self.0 = Kind::One(at, count);
                    }
                }
            }
            Kind::Many(many) => {
                let count = many.get_mut(&key).expect(COUNTED);
                *count -= 1;
                if *count == 0 {
                    many.remove(&key);
                    // Well below the bound above, so that one tenant that comes and goes does not switch it to and fro.
                    if many.len() <= MAX_FEW / 2 {
                        self.0 = Kind::Few(many.iter().map(|(key, count)| (*key, *count)).collect());
                    }
                }
            }
        }
    }

    /// Every place with its count, in the order of clusters, then shards.
    pub(crate) fn iter(&self) -> Box<dyn Iterator<Item = (ClusterId, ShardId, u32)> + '_> {
        let spread = |(key, count): (u64, u32)| {
            let (cluster, shard) = place(key);
            (cluster, shard, count)
        };
        match &self.0 {
            Kind::None => Box::new(std::iter::empty()),
            Kind::One(key, count) => Box::new(std::iter::once(spread((*key, *count)))),
            Kind::Few(few) => Box::new(few.iter().copied().map(spread)),
            Kind::Many(many) => Box::new(many.iter().map(move |(key, count)| spread((*key, *count)))),
        }
    }

    /// How many are in a shard.
    pub(crate) fn in_shard(&self, cluster: ClusterId, shard: ShardId) -> u32 {
        let key = key(cluster, shard);
        match &self.0 {
            Kind::None => 0,
            Kind::One(at, count) => u32::from(*at == key) * count,
            Kind::Few(few) => few.binary_search_by_key(&key, |entry| entry.0).map_or(0, |found| few[found].1),
            Kind::Many(many) => many.get(&key).copied().unwrap_or(0),
        }
    }

    /// How many are in a cluster.
    pub(crate) fn in_cluster(&self, cluster: ClusterId) -> u32 {
        let (first, last) = (key(cluster, ShardId(0)), key(cluster, ShardId(u16::MAX)));
        match &self.0 {
            Kind::None => 0,
            Kind::One(at, count) => u32::from((first..=last).contains(at)) * count,
            Kind::Few(few) => {
                let start = few.partition_point(|entry| entry.0 < first);
                few[start..].iter().take_while(|entry| entry.0 <= last).map(|entry| entry.1).sum()
            }
            Kind::Many(many) => many.range(first..=last).map(|(_, count)| count).sum(),
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
        fn places_count_like_a_plain_map(steps in prop::collection::vec((0_u32..12, 0_u16..12, any::<bool>()), 1..600)) {
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
                prop_assert_eq!(places.in_cluster(ClusterId(cluster)), expected);
                let expected = plain.get(&(cluster, shard)).copied().unwrap_or(0);
                prop_assert_eq!(places.in_shard(ClusterId(cluster), ShardId(shard)), expected);
            }
            let listed: Vec<_> = places.iter().map(|(cluster, shard, count)| ((cluster.0, shard.0), count)).collect();
            prop_assert_eq!(listed, plain.into_iter().collect::<Vec<_>>());
        }
    }
}
