//! The client against processes that misbehave on purpose.

#![allow(clippy::unwrap_used, reason = "a test's helpers are test code")]

mod fake;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake::{Do, Seen, applied, coordinates, electing, found, refused, usual};
use quorate_client::{
    ChangeOptions, Client, ConnectError, Error, Level, NoServer, ReadOptions, Refused, Version,
};
use quorate_protocol::ids::{Index, NodeId};
use quorate_protocol::rpc::registry::Whereabouts;
use quorate_protocol::rpc::store::{ChangeReply, StoreRequest, StoreResponse};

/// What the processes of a test say of who coordinates.
type Word = Arc<Mutex<Whereabouts>>;

fn word() -> Word {
    Arc::new(Mutex::new(electing(1)))
}

fn say(word: &Word, said: Whereabouts) {
    *word.lock().unwrap() = said;
}

async fn server(word: &Word) -> fake::Fake {
    let word = word.clone();
    fake::server(move || word.lock().unwrap().clone()).await
}

/// A node that does with the n-th change it sees what `change` says.
async fn node(
    word: &Word,
    seen: &Seen,
    change: impl Fn(usize) -> Do<StoreResponse> + Send + Sync + 'static,
) -> fake::Fake {
    let (word, seen) = (word.clone(), seen.clone());
    fake::node(move |request| {
        if let Some(usual) = usual(&request, &word.lock().unwrap()) {
            return usual;
        }
        match request {
            StoreRequest::Change { change: asked } => change(seen.note(&asked)),
            StoreRequest::Read { read } => found(&read.key.to_string(), 1),
            _ => Do::Hold,
        }
    })
    .await
}

fn short() -> ChangeOptions {
    ChangeOptions::default().deadline(Duration::from_millis(300))
}

#[tokio::test]
async fn a_write_follows_the_hint_to_the_coordinator() {
    let (word, seen) = (word(), Seen::default());
    let right = node(&word, &seen, |_| applied(7)).await;
    let hint = Some((NodeId(2), right.address.clone()));
    let wrong = node(&word, &Seen::default(), move |_| {
        refused(Refused::NotCoordinator { hint: hint.clone() })
    })
    .await;
    say(&word, coordinates(1, &wrong.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    let changed = client.write("k", "v").await.unwrap();
    assert_eq!((changed.version, changed.by), (Version::new(1, 7), NodeId(2)));
    assert_eq!(client.token(Duration::from_secs(1)).await.unwrap().born, Index(7));
}

#[tokio::test]
async fn a_request_cut_off_is_sent_again_under_its_token() {
    let (word, seen) = (word(), Seen::default());
    let node = node(&word, &seen, |n| if n == 0 { Do::Cut } else { applied(9) }).await;
    say(&word, coordinates(1, &node.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    client.write("k", "v").await.unwrap();
    let tokens = seen.tokens();
    assert_eq!(tokens.len(), 2);
    assert_eq!(tokens[0], tokens[1]);
    assert_eq!(tokens[0].born, Index(1), "the coordinator was asked before the first change");
}

#[tokio::test]
async fn a_request_on_a_connection_without_another_end_is_sent_again_on_a_new_one() {
    let (word, seen) = (word(), Seen::default());
    let node = node(&word, &seen, |_| applied(9)).await;
    let gateway = fake::Gateway::before(&node.address).await;
    say(&word, coordinates(1, &gateway.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    client.write("k", "v").await.unwrap();
    gateway.forget();
    let patient = ChangeOptions::default().deadline(Duration::from_secs(120));
    let write = client.write_with("k", "w", patient);
    let written = tokio::time::timeout(Duration::from_secs(30), write).await;
    written.expect("long before its deadline").unwrap();
    assert_eq!(seen.tokens().len(), 2, "it did not arrive the first time");
}

#[tokio::test]
async fn a_refusal_is_certain() {
    let (word, seen) = (word(), Seen::default());
    let why = || Refused::InvalidKey { why: "too long".to_owned() };
    let node = node(&word, &seen, move |_| refused(why())).await;
    say(&word, coordinates(1, &node.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    assert_eq!(client.write("k", "v").await, Err(Error::Refused(why())));
}

#[tokio::test]
async fn a_refusal_after_an_unanswered_attempt_is_unknown() {
    let (word, seen) = (word(), Seen::default());
    let node = node(&word, &seen, |n| match n {
        0 => Do::Cut,
        _ => refused(Refused::InvalidKey { why: "too long".to_owned() }),
    })
    .await;
    say(&word, coordinates(1, &node.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    let error = client.write("k", "v").await.unwrap_err();
    let Error::Unknown { token, why } = error else { panic!("{error:?}") };
    assert_eq!(token, seen.tokens()[0]);
    assert!(why.contains("too long"), "{why}");
}

#[tokio::test]
async fn a_refusal_of_a_request_sent_before_is_unknown() {
    let (word, seen) = (word(), Seen::default());
    let node = node(&word, &seen, |_| refused(Refused::InvalidKey { why: "off".to_owned() })).await;
    say(&word, coordinates(1, &node.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    let token = client.token(Duration::from_secs(1)).await.unwrap();
    let again = client.write_with("k", "v", short().again(token)).await;
    assert!(matches!(again, Err(Error::Unknown { token: named, .. }) if named == token));
    let fresh = client.write_with("k", "v", short().token(token)).await;
    assert!(matches!(fresh, Err(Error::Refused(_))), "{fresh:?}");
}

#[tokio::test]
async fn a_silent_coordinator_leaves_writes_unknown_and_reads_unavailable() {
    let (word, seen) = (word(), Seen::default());
    let fake = {
        let (word, seen) = (word.clone(), seen.clone());
        fake::node(move |request| {
            if let StoreRequest::Change { change } = &request {
                seen.note(change);
            }
            usual(&request, &word.lock().unwrap()).unwrap_or(Do::Hold)
        })
        .await
    };
    say(&word, coordinates(1, &fake.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    let write = client.write_with("k", "v", short()).await;
    assert!(matches!(write, Err(Error::Unknown { .. })), "{write:?}");
    assert_eq!(seen.tokens().len(), 1, "the same coordinator is not asked twice");
    let read = ReadOptions::default().deadline(Duration::from_millis(100));
    let read = client.read_with("k", read).await;
    assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
}

#[tokio::test]
async fn without_a_coordinator_nothing_was_sent() {
    let word = word();
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    let write = client.write_with("k", "v", short()).await;
    assert!(matches!(&write, Err(Error::Unavailable { why }) if why.contains("no coordinator")));
}

#[tokio::test]
async fn a_dead_coordinator_leaves_new_writes_unavailable() {
    let (word, seen) = (word(), Seen::default());
    let node = node(&word, &seen, |_| applied(2)).await;
    say(&word, coordinates(1, &node.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    client.write("k", "v").await.unwrap();
    drop(node);
    // The first may still have gone out on the dying connection; the second finds it gone.
    let _ = client.write_with("k", "v", short()).await;
    let write = client.write_with("k", "v", short()).await;
    assert!(matches!(&write, Err(Error::Unavailable { .. })), "{write:?}");
}

#[tokio::test]
async fn a_request_waiting_at_one_coordinator_moves_to_the_next() {
    let (word, seen) = (word(), Seen::default());
    let hung = node(&word, &seen, |_| Do::Hold).await;
    let next = node(&word, &seen, |_| applied(5)).await;
    say(&word, coordinates(1, &hung.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    let writing = tokio::spawn({
        let client = client.clone();
        async move { client.write("k", "v").await }
    });
    while seen.tokens().is_empty() {
        tokio::task::yield_now().await;
    }
    say(&word, coordinates(2, &next.address, 2));
    assert_eq!(writing.await.unwrap().unwrap().by, NodeId(2));
    let tokens = seen.tokens();
    assert_eq!(tokens[0], tokens[1]);
}

#[tokio::test]
async fn the_nodes_are_asked_when_the_server_is_away() {
    let (word, seen) = (word(), Seen::default());
    let first = node(&word, &seen, |_| applied(5)).await;
    let second = node(&word, &seen, |_| applied(6)).await;
    let mut both = coordinates(1, &first.address, 1);
    both.nodes.push((NodeId(2), second.address.clone()));
    say(&word, both.clone());
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    assert_eq!(client.write("k", "v").await.unwrap().by, NodeId(1));
    drop(server);
    drop(first);
    say(&word, Whereabouts { nodes: both.nodes, ..coordinates(2, &second.address, 2) });
    assert_eq!(client.write("k", "v").await.unwrap().by, NodeId(2));
}

#[tokio::test]
async fn a_node_address_serves_as_well_as_the_servers() {
    let (word, seen) = (word(), Seen::default());
    let node = node(&word, &seen, |_| applied(5)).await;
    say(&word, coordinates(1, &node.address, 1));
    let client = Client::connect([&node.address]).await.unwrap();
    client.write("k", "v").await.unwrap();
    assert_eq!(client.read("k").await.unwrap().value, Some("k".into()));
}

#[tokio::test]
async fn an_unknown_reply_is_followed_by_the_same_token() {
    let (word, seen) = (word(), Seen::default());
    let node = node(&word, &seen, |n| match n {
        0 => Do::Answer(StoreResponse::Change(ChangeReply::Unknown)),
        1 => refused(Refused::NotServing),
        _ => applied(3),
    })
    .await;
    say(&word, coordinates(1, &node.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    client.write("k", "v").await.unwrap();
    let tokens = seen.tokens();
    assert_eq!(tokens.len(), 3);
    assert!(tokens.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn expired_at_the_first_attempt_is_a_stale_date_and_not_an_outcome() {
    let (word, seen) = (word(), Seen::default());
    let expired = || Do::Answer(StoreResponse::Change(ChangeReply::Expired));
    let node = node(&word, &seen, move |n| match n {
        0 | 2 => expired(),
        1 => applied(4),
        _ => Do::Hold,
    })
    .await;
    say(&word, coordinates(1, &node.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    client.write("k", "v").await.unwrap();
    let tokens = seen.tokens();
    assert!(tokens[0].request < tokens[1].request, "a new token, since the first was never sent");
    let named = client.write_with("k", "v", short().again(tokens[0])).await;
    assert_eq!(named, Err(Error::Expired { token: tokens[0] }));
}

#[tokio::test]
async fn a_weak_read_finds_a_node_that_lives() {
    let (word, seen) = (word(), Seen::default());
    let alive = node(&word, &seen, |_| Do::Hold).await;
    let dead = node(&word, &seen, |_| Do::Hold).await;
    let mut said = electing(1);
    said.nodes.push((NodeId(1), alive.address.clone()));
    said.nodes.push((NodeId(2), dead.address.clone()));
    drop(dead);
    say(&word, said);
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    for _ in 0..10 {
        let reading = client.read_with("k", ReadOptions::default().level(Level::Weak)).await;
        assert_eq!(reading.unwrap().by, NodeId(1));
    }
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let (word, seen) = (word(), Seen::default());
    let node = node(&word, &seen, |n| applied(n as u64 + 2)).await;
    say(&word, coordinates(1, &node.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    let writes = (0..2_000).map(|n| {
        let (client, done) = (client.clone(), done.clone());
        tokio::spawn(async move {
            client.write(n.to_string().as_str(), "v").await.unwrap();
            done.fetch_add(1, Ordering::Relaxed);
        })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    assert_eq!(done.load(Ordering::Relaxed), 2_000);
    let mut tokens = seen.tokens();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 2_000, "every request has a token of its own");
}

#[tokio::test]
async fn what_no_frame_can_carry_is_refused_at_once() {
    let (word, seen) = (word(), Seen::default());
    let node = node(&word, &seen, |_| applied(5)).await;
    say(&word, coordinates(1, &node.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    let huge = vec![0_u8; quorate_protocol::transport::FRAME_BYTES_MAX + 1];
    let error = client.write("k", huge).await.unwrap_err();
    let bound = quorate_protocol::transport::FRAME_BYTES_MAX.to_string();
    assert!(matches!(error, Error::Refused(_)) && error.to_string().contains(&bound), "{error}");
    assert!(seen.tokens().is_empty());
}

#[tokio::test]
async fn a_read_without_an_answer_speaks_of_no_outcome() {
    let word = word();
    let fake = {
        let word = word.clone();
        fake::node(move |request| usual(&request, &word.lock().unwrap()).unwrap_or(Do::Hold)).await
    };
    say(&word, coordinates(1, &fake.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    let read = ReadOptions::default().deadline(Duration::from_millis(100));
    let error = client.read_with("k", read).await.unwrap_err().to_string();
    assert!(error.contains("no answer") && !error.contains("may or may not"), "{error}");
}

#[tokio::test]
async fn a_coordinator_that_had_no_time_is_not_said_to_be_unable() {
    let (word, seen) = (word(), Seen::default());
    let node = node(&word, &seen, |_| refused(Refused::NotServing)).await;
    say(&word, coordinates(1, &node.address, 1));
    let server = server(&word).await;
    let client = Client::connect([&server.address]).await.unwrap();
    client.token(Duration::from_secs(1)).await.unwrap();
    let hurried = ChangeOptions::default().deadline(Duration::from_millis(4));
    let error = client.write_with("k", "v", hurried).await.unwrap_err().to_string();
    assert!(!error.contains("cannot serve"), "{error}");
}

/// A node that has not registered: it knows nobody, and has promised a newer epoch than all others.
async fn newcomer() -> fake::Fake {
    let knows_nobody = Whereabouts { electing: false, ..electing(9) };
    fake::node(move |request| usual(&request, &knows_nobody).unwrap_or(Do::Hold)).await
}

#[tokio::test]
async fn a_node_that_has_not_registered_outranks_nobody() {
    let (word, seen) = (word(), Seen::default());
    let member = node(&word, &seen, |_| applied(5)).await;
    say(&word, coordinates(1, &member.address, 1));
    let newcomer = newcomer().await;
    let client = Client::connect([&newcomer.address, &member.address]).await.unwrap();
    client.write_with("k", "v", short()).await.unwrap();
}

#[tokio::test]
async fn the_status_waits_for_the_silent_beside_the_others() {
    let (word, seen) = (word(), Seen::default());
    let member = node(&word, &seen, |_| applied(5)).await;
    say(&word, coordinates(1, &member.address, 1));
    // It takes connections and never says a word.
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hole = hole.local_addr().map(|at| (hole, at.to_string())).unwrap();
    let client = Client::connect([&hole.1, &member.address]).await.unwrap();
    let found = client.status(Duration::from_millis(300)).await;
    let named: Vec<_> = found.nodes.iter().map(|node| node.address.as_str()).collect();
    assert_eq!(named, [member.address.as_str()]);
    assert!(found.silent.contains_key(&hole.1), "{found:?}");
    assert!(matches!(found.server, Err(NoServer::Silent { .. })), "{found:?}");
    let node = Client::connect([&member.address]).await.unwrap();
    let found = node.status(Duration::from_millis(300)).await;
    assert_eq!(found.server.unwrap_err(), NoServer::NotGiven);
}

#[tokio::test]
async fn a_black_hole_before_the_server_hides_it_not() {
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = hole.local_addr().unwrap().to_string();
    let server = fake::settings().await;
    let client = Client::unconnected([&at, &server.address]).unwrap();
    client.settings(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn connecting_to_nobody_says_so() {
    let gone = server(&word()).await.address.clone();
    let error = Client::connect([gone.as_str()]).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Unavailable { why } if why.contains(&gone)), "{error}");
    let error = Client::connect(["not an address"]).await.unwrap_err();
    assert!(matches!(error, ConnectError::BadAddress(_)));
    let none: [&str; 0] = [];
    assert_eq!(Client::connect(none).await.unwrap_err(), ConnectError::AddressCount(0));
}
