//! A source of your own over the library: topics by path, for clients with a token.
//!
//! Run `cargo run --example topics`, and write `news hello` to its standard input. A client that has said `start` at
//! `ws://localhost:8080/news?token=secret` receives `hello`.

use std::{collections::HashMap, io, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    net::TcpListener,
    sync::broadcast::{Sender, error::RecvError},
};
use wspush::{
    CloseCode, CloseFrame, Config, Notification, Refusal, Server,
    http::{Request, StatusCode},
    listen, refuse,
};

const TOKEN: &str = "secret";

/// How many notifications of a topic are kept for its slowest client.
const CAPACITY: usize = 1024;

pub(crate) type Topic = Sender<Notification>;
pub(crate) type Topics = HashMap<&'static str, Topic>;

#[tokio::main]
async fn main() -> io::Result<()> {
    let topics = ["news", "sport"].map(|name| (name, Topic::new(CAPACITY)));
    let topics = Arc::new(Topics::from(topics));
    let server = serve(listen("localhost:8080").await?, Arc::clone(&topics));
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let (name, text) = line.split_once(' ').unwrap_or_default();
        match topics.get(name) {
            // An error means that nobody follows the topic.
            Some(topic) => drop(topic.send(Notification::new(text))),
            None => eprintln!("expected news or sport, and a text: {line:?}"),
        }
    }
    server.shutdown().await;
    Ok(())
}

pub(crate) fn serve(listeners: Vec<TcpListener>, topics: Arc<Topics>) -> Server {
    Server::start(listeners, Config::default(), move |request, _peer| {
        let topic = topic(&topics, request)?;
        Ok(follow(topic.clone()).boxed())
    })
}

/// The topic that a client asks for, if it has the token.
fn topic<'a>(topics: &'a Topics, request: &Request<()>) -> Result<&'a Topic, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let mut tokens = query
        .split('&')
        .filter_map(|part| part.strip_prefix("token="));
    if !tokens.any(|token| token == TOKEN) {
        return Err(refuse(
            StatusCode::UNAUTHORIZED,
            "Add ?token=TOKEN to the URL.",
        ));
    }
    let name = request.uri().path().trim_start_matches('/');
    let not_found = || refuse(StatusCode::NOT_FOUND, "Request /news or /sport.");
    topics.get(name).ok_or_else(not_found)
}

/// What is published from the first poll on, that is, from the client's `start`.
fn follow(topic: Topic) -> impl Stream<Item = Result<Notification, CloseFrame>> {
    let receiver = stream::once(async move { topic.subscribe() });
    receiver.flat_map(|receiver| {
        stream::unfold(receiver, async |mut receiver| {
            let item = match receiver.recv().await {
                Ok(notification) => Ok(notification),
                // Close, or the client would never learn that it missed some: the next one is received as usual.
                Err(RecvError::Lagged(count)) => Err(CloseFrame {
                    code: CloseCode::Again,
                    reason: format!("too far behind, {count} notifications were lost").into(),
                }),
                Err(RecvError::Closed) => return None,
            };
            Some((item, receiver))
        })
    })
}
