//! Callers and their carrier, over a pipe.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::ids::ClusterId;
use crate::transport::connection::{ServerConnection, WRITE_BUFFER_BYTES};
use crate::transport::frame::FRAME_BYTES_MAX;
use crate::transport::hello::{Hello, Service};
use crate::transport::wire::{Wire, unanswered};

type Acceptor = ServerConnection<Bytes, Bytes, DuplexStream>;

fn hello() -> Hello {
    Hello::new(Service::Store, ClusterId(1))
}

/// Calls over a connection with so many bytes between its ends, and the other end of it.
fn start(between: usize) -> (Calls<Bytes, Bytes>, JoinHandle<()>, DuplexStream) {
    let (here, there) = duplex(between);
    let (calls, task) = spawn_client(ClientConnection::new(here, hello(), None));
    (calls, task, there)
}

fn acceptor(there: DuplexStream) -> Acceptor {
    Acceptor::new(there, hello(), None)
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn body(number: usize) -> Bytes {
    Bytes::from(number.to_string())
}

async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// The next message: the id and the body of a request, or the id of one that is cancelled.
async fn next(acceptor: &mut Acceptor) -> (u64, Option<Bytes>) {
    match acceptor.next().await.unwrap().unwrap() {
        ClientMessage::Request(Request { id, message, .. }) => (id, Some(message)),
        ClientMessage::Cancel { request_id, .. } => (request_id, None),
        _ => panic!("no such message"),
    }
}

async fn say(acceptor: &mut Acceptor, request_id: u64, message: Bytes) {
    acceptor.send(tarpc::Response { request_id, message: Ok(message) }).await.unwrap();
}

macro_rules! begin {
    ($call:expr) => {
        assert!(futures::poll!($call.as_mut()).is_pending())
    };
}

#[tokio::test]
async fn requests_leave_in_the_order_of_their_first_polls_and_answers_come_in_any() {
    let (calls, _task, there) = start(1 << 20);
    let mut acceptor = acceptor(there);
    // More than the line takes.
    let count = CALLS_WAITING_MAX + 100;
    let mut made: Vec<_> = (0..count).map(|_| None).collect();
    for number in (0..count).rev() {
        let mut call = Box::pin(calls.call(body(number), later()));
        begin!(call);
        made[number] = Some(call);
    }
    let waiting = futures::future::join_all(made.into_iter().flatten());
    let answering = async {
        let mut ids = Vec::new();
        for number in (0..count).rev() {
            let (id, asked) = next(&mut acceptor).await;
            assert_eq!(asked, Some(body(number)));
            ids.push((id, number));
        }
        for (id, number) in ids.into_iter().rev().step_by(2) {
            say(&mut acceptor, id, body(number)).await;
        }
        drop(acceptor);
    };
    let (outcomes, ()) = tokio::join!(waiting, answering);
    for (number, outcome) in outcomes.into_iter().enumerate() {
        let is_answered = number % 2 == 0;
        assert_eq!(outcome, if is_answered { Ok(body(number)) } else { Err(NoAnswer::Closed) });
    }
}

#[tokio::test]
async fn line_and_wire_are_bounded_and_calls_that_are_dropped_make_room() {
    let (calls, _task, there) = start(4 << 20);
    let shared = Arc::clone(&calls.handle.shared);
    let mut acceptor = acceptor(there);
    let all = IN_FLIGHT_MAX + CALLS_WAITING_MAX + 1;
    let mut made = VecDeque::new();
    for number in 0..all {
        let mut call = Box::pin(calls.call(body(number), later()));
        begin!(call);
        made.push_back(call);
        if number % 100 == 0 {
            settle().await;
        }
    }
    settle().await;
    let counts = || {
        let state = shared.state();
        (state.waiting.len(), state.line.len(), shared.room.available_permits())
    };
    assert_eq!(counts(), (IN_FLIGHT_MAX, CALLS_WAITING_MAX, 0));
    for number in 0..IN_FLIGHT_MAX {
        assert_eq!(next(&mut acceptor).await, (number as u64, Some(body(number))));
    }

    // The one that waits for room gets it from one that stood in line, and is not sent either.
    drop(made.remove(IN_FLIGHT_MAX));
    begin!(made.back_mut().unwrap());
    settle().await;
    assert_eq!(counts(), (IN_FLIGHT_MAX, CALLS_WAITING_MAX, 0));
    assert!(futures::poll!(acceptor.next()).is_pending());

    // One of those on the wire makes room there, and the other end knows why.
    drop(made.pop_front());
    settle().await;
    assert_eq!(counts(), (IN_FLIGHT_MAX, CALLS_WAITING_MAX - 1, 1));
    assert_eq!(next(&mut acceptor).await, (0, None));
    let (id, asked) = next(&mut acceptor).await;
    assert_eq!(asked, Some(body(IN_FLIGHT_MAX + 1)));

    // Its late answer is nobody's.
    say(&mut acceptor, 0, body(0)).await;
    say(&mut acceptor, id, body(7)).await;
    let call = made.remove(IN_FLIGHT_MAX - 1).unwrap();
    assert_eq!(call.await, Ok(body(7)));

    drop(made);
    settle().await;
    assert_eq!(counts(), (0, 0, CALLS_WAITING_MAX));
    assert!(shared.state().dropped.is_empty());
}

#[tokio::test]
async fn calls_that_are_dropped_before_they_are_sent_never_are() {
    // The other end reads nothing.
    let (calls, _task, there) = start(16);
    let large = Bytes::from(vec![0; 2 * WRITE_BUFFER_BYTES]);
    let mut first = Box::pin(calls.call(large, later()));
    begin!(first);
    settle().await;
    let mut made: Vec<_> =
        (0..10).map(|number| Box::pin(calls.call(body(number), later()))).collect();
    for call in &mut made {
        begin!(call);
    }
    settle().await;
    drop(made.drain(2..9));
    drop(made.remove(0));
    let mut acceptor = acceptor(there);
    assert_eq!(next(&mut acceptor).await.0, 0);
    for (number, call) in [1, 9].into_iter().zip(made) {
        let (id, asked) = next(&mut acceptor).await;
        assert_eq!(asked, Some(body(number)));
        say(&mut acceptor, id, body(number)).await;
        assert_eq!(call.await, Ok(body(number)));
    }
    say(&mut acceptor, 0, body(3)).await;
    assert_eq!(first.await, Ok(body(3)));
}

#[tokio::test]
async fn a_request_that_cannot_be_encoded_fails_alone() {
    let (calls, _task, there) = start(1 << 16);
    let mut acceptor = acceptor(there);
    let mut before = Box::pin(calls.call(body(1), later()));
    begin!(before);
    let long = Bytes::from(vec![0; FRAME_BYTES_MAX]);
    let error = calls.call(long, later()).await.unwrap_err();
    let is_too_long = matches!(error, NoAnswer::Unsendable(FrameError::TooLong { .. }));
    assert!(is_too_long, "{error}");
    let (id, _) = next(&mut acceptor).await;
    say(&mut acceptor, id, body(2)).await;
    assert_eq!(before.await, Ok(body(2)));
    assert!(calls.handle.shared.state().waiting.is_empty());
}

#[tokio::test]
async fn when_the_connection_fails_all_that_wait_are_told_why() {
    let (calls, task, mut there) = start(1 << 10);
    let large = Bytes::from(vec![0; 2 * WRITE_BUFFER_BYTES]);
    let mut made = Vec::new();
    for number in 0..CALLS_WAITING_MAX + 10 {
        let body = if number == 1 { large.clone() } else { body(number) };
        let mut call = Box::pin(calls.call(body, later()));
        begin!(call);
        made.push(call);
        if number < 2 {
            settle().await;
        }
    }
    let mut answer = BytesMut::new();
    tarpc::Response::<Bytes> { request_id: 0, message: Err(unanswered()) }
        .encode(None, &mut answer)
        .unwrap();
    there.write_all(&answer).await.unwrap();
    there.write_all(&[0xff; 5]).await.unwrap();
    // On the wire, in line, and waiting for room; and whoever comes too late.
    let mut outcomes = futures::future::join_all(made).await;
    task.await.unwrap();
    outcomes.push(calls.call(body(0), later()).await);
    assert_eq!(outcomes.remove(0), Err(NoAnswer::GivenUp(unanswered())));
    for outcome in outcomes {
        let is_told = matches!(outcome, Err(NoAnswer::Broken(FrameError::TooLong { .. })));
        assert!(is_told, "{outcome:?}");
    }
}

#[tokio::test]
async fn it_ends_with_the_last_handle_and_says_first_what_is_not_waited_for() {
    let (calls, task, there) = start(1 << 10);
    let other = calls.clone();
    let mut call = Box::pin(other.call(body(1), later()));
    begin!(call);
    settle().await;
    drop(calls);
    settle().await;
    assert!(!task.is_finished());
    drop(call);
    drop(other);
    task.await.unwrap();
    let mut acceptor = acceptor(there);
    assert_eq!(next(&mut acceptor).await, (0, Some(body(1))));
    assert_eq!(next(&mut acceptor).await, (0, None));
    assert!(acceptor.next().await.is_none());
}

#[tokio::test]
async fn nobody_waits_for_a_carrier_that_was_stopped() {
    let (calls, task, mut there) = start(1 << 10);
    let mut call = Box::pin(calls.call(body(1), later()));
    begin!(call);
    settle().await;
    task.abort();
    assert_eq!(call.await, Err(NoAnswer::Closed));
    assert_eq!(calls.call(body(2), later()).await, Err(NoAnswer::Closed));
    there.read_to_end(&mut Vec::new()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_generated_client_waits_no_longer_than_its_context_says() {
    let (here, there) = duplex(1 << 10);
    let connection = ClientConnection::<u32, u32, _>::new(here, hello(), None);
    let (calls, _task) = spawn_client(connection);
    let error = Stub::call(&calls, context_in(Duration::from_secs(1)), 1).await.unwrap_err();
    assert!(matches!(error, RpcError::DeadlineExceeded), "{error}");
    drop(there);
    let error = Stub::call(&calls, context_in(Duration::from_secs(60)), 1).await.unwrap_err();
    assert!(matches!(error, RpcError::Shutdown), "{error}");
}
