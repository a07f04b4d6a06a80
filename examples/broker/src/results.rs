//! Prints the results.

use std::io::{Write, stdout};

use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures::{StreamExt, TryStreamExt};

use crate::{Result, broker::Broker};

/// Prints the results that are stored now, in the order in which they were published.
pub async fn print(broker: &Broker) -> Result<()> {
    let stored = broker.results().get_info().await?.state.messages;
    let consumer = broker.results().create_consumer(OrderedConfig::default());
    let mut results = consumer.await?.messages().await?.take(stored as usize);
    while let Some(result) = results.try_next().await? {
        stdout().write_all(&result.payload)?;
        stdout().write_all(b"\n")?;
    }
    Ok(())
}
