//! Following the routing, on a thread of its own: a next hop that is wrong costs packets, and must not wait for Services.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tracing::error;

use crate::{source::routes, tables::RoutesTable};

const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Starts the thread; what stands in its way is said on the channel. It ends with the process. While it
/// can't follow, the number grows with every try, so that no next hop is remembered for longer than until the next one.
pub(super) fn follow(mut table: RoutesTable) -> Result<watch::Receiver<Option<String>>> {
    let (problem, problems) = watch::channel(None);
    let follow = move || {
        loop {
            let told = routes::follow(|| {
                table.advance()?;
                problem.send_if_modified(|problem| problem.take().is_some());
                Ok(())
            });
            let Err(error) = told;
            let text = format!(
                "changes of the routing are not followed: {error:#}. Forwarding by XDP asks for every next hop again \
                 once a second; tried again"
            );
            if problem.borrow().as_ref() != Some(&text) {
                error!("{text}");
                problem.send_replace(Some(text));
            }
            let _ = table.advance();
            thread::sleep(RETRY_AFTER);
        }
    };
    thread::Builder::new()
        .name("routes".to_owned())
        .spawn(follow)
        .context("start a thread to follow the routing")?;
    Ok(problems)
}
