//! The example `topics`.

#[path = "../examples/topics.rs"]
#[allow(dead_code)]
mod example;

use std::{net::SocketAddr, sync::Arc};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message},
};
use wspush::{Notification, Server, listen};

use example::{Topic, Topics, serve};

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A server with the topic `news`, which keeps two notifications.
async fn start() -> (Server, SocketAddr, Topic) {
    let topics = Arc::new(Topics::from([("news", Topic::new(2))]));
    let listeners = listen("127.0.0.1:0").await.unwrap();
    let address = listeners[0].local_addr().unwrap();
    let topic = topics["news"].clone();
    (serve(listeners, topics), address, topic)
}

async fn connect(address: SocketAddr, target: &str) -> Result<Client, Error> {
    let (client, _) = connect_async(format!("ws://{address}{target}")).await?;
    Ok(client)
}

/// Returns when the client follows the topic.
async fn follow(client: &mut Client, topic: &Topic) {
    client.send("start".into()).await.unwrap();
    while topic.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_receives_what_is_published_to_its_topic_after_its_start() {
    let (_server, address, topic) = start().await;
    let mut client = connect(address, "/news?token=secret").await.unwrap();
    let _ = topic.send(Notification::new("before"));
    follow(&mut client, &topic).await;
    topic.send(Notification::new("after")).unwrap();
    let message = client.next().await.unwrap().unwrap();
    assert_eq!(message, Message::text("after"));
}

#[tokio::test]
async fn without_the_token_it_is_401_and_at_another_path_404() {
    let (_server, address, _topic) = start().await;
    for (target, status) in [
        ("/news", 401),
        ("/news?token=x", 401),
        ("/x?token=secret", 404),
    ] {
        let Err(Error::Http(response)) = connect(address, target).await else {
            panic!("{target} is let in");
        };
        assert_eq!(response.status(), status, "{target}");
    }
}

#[tokio::test]
async fn a_client_that_misses_notifications_is_closed_with_1013() {
    let (_server, address, topic) = start().await;
    let mut client = connect(address, "/news?token=secret").await.unwrap();
    follow(&mut client, &topic).await;
    // More than it keeps, before the server's tasks run again.
    for text in ["1", "2", "3"] {
        topic.send(Notification::new(text)).unwrap();
    }
    let Some(Ok(Message::Close(Some(close)))) = client.next().await else {
        panic!("no Close frame");
    };
    assert_eq!(u16::from(close.code), 1013, "{close}");
}
