//! The memory log keeps the same rules.

use proptest::prelude::*;
use quorate_node::log::memory::MemoryLog;
use quorate_node::log::{Log, LogOp};

use super::model::{Model, Op, ops};

proptest! {
    #[test]
    fn it_says_what_the_model_says(
        writes in prop::collection::vec((ops(), prop::option::of(any::<u8>())), 1..40),
        bytes_max in any::<u16>(),
    ) {
        let mut log = MemoryLog::new();
        let mut model = Model::default();
        for (ops, drop) in &writes {
            let ops: Vec<LogOp> = ops.iter().map(|op| op.on(&mut model)).collect();
            log.write(&ops).unwrap();
            if let Some(back) = drop {
                let index = model.drop_at(*back);
                model.dropped = model.dropped.max(index);
                log.drop_through(index).unwrap();
                assert!(log.shape().base().index >= index);
            }
            model.check(&log);
            let base = log.shape().base().index;
            let held = model.entries.iter().filter(|(version, _)| version.index > base);
            prop_assert_eq!(log.bytes(), held.map(|(_, frame)| frame.len() as u64).sum::<u64>());
        }
        model.check_reads(&log, usize::from(bytes_max));
        Box::new(log).close();
    }
}

#[test]
fn dropping_to_the_tail_bounds_its_bytes() {
    let mut log = MemoryLog::new();
    let mut model = Model::default();
    for _ in 0..50 {
        let ops = [Op::Append { cut: 0, entries: vec![(false, 100); 3] }, Op::Applied { back: 0 }];
        log.write(&ops.map(|op| op.on(&mut model))).unwrap();
        log.drop_through(log.tail_after(1000)).unwrap();
        assert!(log.bytes() <= 1000 + 150, "{}", log.bytes());
    }
    assert!(log.bytes() >= 1000);
}

#[test]
#[should_panic(expected = "only what is durably applied is dropped")]
fn what_is_not_applied_is_not_dropped() {
    let mut log = MemoryLog::new();
    let op = Op::Append { cut: 0, entries: vec![(false, 100)] }.on(&mut Model::default());
    log.write(&[op]).unwrap();
    let last = log.shape().last().index;
    log.drop_through(last).unwrap();
}
