//! Peers that lie: messages that were doctored on the way must not bring a replica down by a panic. What they can do to the data is no matter
//! here: only authenticated replicas are heard.

#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

mod toy;

use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use roadstead_consensus::door::Input;
use roadstead_consensus::replica::Config;
use toy::{Dice, Packet, Toy, small_config, write};

const SEEDS: u64 = 150;
const STEPS: u64 = 1_500;
/// Kind and group in front of a Raft message.
const HEADER_BYTES: usize = 17;

const KINDS: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// A number near one that would be right, or far off.
fn near(dice: &mut Dice, right: u64) -> u64 {
    match dice.roll(12) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << 55,
        n => right.saturating_add(n).saturating_sub(7),
    }
}

fn doctored(dice: &mut Dice, bytes: &[u8]) -> Vec<u8> {
    if bytes[0] != 0 || dice.roll(8) == 0 {
        let mut bytes = bytes.to_vec();
        let at = dice.roll(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << dice.roll(8);
        bytes.truncate(bytes.len() - dice.roll(3).min(bytes.len() as u64 - 1) as usize);
        return bytes;
    }
    let mut message = Message::parse_from_bytes(&bytes[HEADER_BYTES..]).unwrap();
    for _ in 0..=dice.roll(3) {
        match dice.roll(11) {
            0 => message.set_msg_type(KINDS[dice.roll(KINDS.len() as u64) as usize]),
            1 => message.term = near(dice, message.term),
            2 => message.index = near(dice, message.index),
            3 => message.log_term = near(dice, message.log_term),
            4 => message.commit = near(dice, message.commit),
            5 => message.reject = !message.reject,
            6 => message.reject_hint = near(dice, message.index),
            7 => message.commit_term = near(dice, message.term),
            8 => message.from = near(dice, message.from),
            9 => doctor_entries(dice, &mut message),
            _ => {
                let metadata = message.mut_snapshot().mut_metadata();
                metadata.index = near(dice, metadata.index);
                metadata.term = near(dice, metadata.term);
            }
        }
    }
    let mut doctored = bytes[..HEADER_BYTES].to_vec();
    doctored.extend(message.write_to_bytes().unwrap());
    doctored
}

fn doctor_entries(dice: &mut Dice, message: &mut Message) {
    let (index, term) = (message.index.saturating_add(1 + message.entries.len() as u64), message.term);
    let mut entry = Entry { index: near(dice, index), term, data: vec![1; 30].into(), ..Entry::default() };
    match dice.roll(4) {
        0 => entry.set_entry_type(EntryType::EntryConfChange),
        1 => entry.set_entry_type(EntryType::EntryConfChangeV2),
        2 => entry.context = vec![dice.roll(5) as u8].into(),
        _ => entry.index = index,
    }
    message.mut_entries().push(entry);
}

fn run(seed: u64) -> usize {
    let mut dice = Dice(seed);
    let mut toy = Toy::group(3, Config { snapshot_every_entries: 10, kept_entries: 3, ..small_config() });
    (toy.fatal_allowed, toy.lies_allowed, toy.eager_disks) = (true, true, false);
    for step in 0..STEPS {
        let running = toy.running();
        let id = running[dice.roll(running.len() as u64) as usize];
        match dice.roll(20) {
            0..8 => {
                if let Some(packet) = toy.network.pop_front() {
                    toy.deliver(packet);
                }
            }
            8..10 => {
                if let Some(Packet { from, to, messages }) = toy.network.pop_front() {
                    let messages = messages.iter().map(|bytes| doctored(&mut dice, bytes)).collect();
                    toy.deliver(Packet { from, to, messages });
                }
            }
            10..14 => {
                toy.now += toy.config.tick_ms / 2;
                toy.input(id, Input::Tick);
            }
            14..18 => _ = toy.sync_one(id),
            18 => _ = toy.request(id, write("a", step, step + 1)),
            _ => _ = toy.read(id),
        }
    }
    toy.alarms.len()
}

#[test]
fn no_lie_of_a_peer_makes_a_replica_panic() {
    let one: Option<u64> = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let many = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let mut alarms = 0;
    for seed in one.map_or(1..=many, |seed| seed..=seed) {
        alarms += std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| panic!("seed {seed} fails; run it alone with SEED={seed}"));
    }
    assert!(alarms > 100, "lies are noticed: {alarms}");
}
