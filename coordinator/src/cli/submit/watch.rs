//! Following many tasks to their end without hammering the cluster.
//!
//! Asking for every task again and again would cost the cluster one request a task a second. A
//! *sweep* asks three questions instead: which tasks are pending (the first page only), which are
//! assigned, which are running. Lists come in order of submission, our tasks were submitted in
//! order, and tasks of equal priority are started in order. So what stands before the last pending
//! task of that page and is in none of the lists has probably ended, and only that is asked for by
//! its id, which also fetches its result. A run of N tasks costs N such requests and a few small
//! lists a second.
//!
//! Nothing is concluded from a list alone: a task counts as ended when its own record says so.
//! Should the order be otherwise (retries that wait, labels that only some workers have, other
//! runs in front), the sweep grows: each one that finds nothing looks at twice as many pages,
//! until the whole list is covered.

use api::task::{TaskPage, TaskRecord, TaskState};
use api::{Client, ClientError, ErrorCode};
use futures_util::StreamExt;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

/// Rows of a page.
const PAGE_TASKS: usize = 200;
/// Pages of one list that one sweep reads at most.
const MAX_PAGES: usize = 1000;
/// Requests for single tasks under way at once.
const MAX_CONCURRENT: usize = 8;
/// Between sweeps: at first, and when nothing happens.
const SHORT_PAUSE: Duration = Duration::from_millis(200);
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// One request. Short, because a leader that hangs takes all of it.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// So many wrong guesses in one sweep mean that the remembered place in the list is of no use.
const WRONG_GUESSES: usize = 64;
/// A task that the cluster does not know in so many sweeps is lost.
const MAX_MISSES: u32 = 3;

/// What became of one task.
#[derive(Debug)]
pub enum End {
    /// It is in a final state.
    Final(TaskRecord),
    /// The cluster does not know it.
    NotThere,
}

/// Who is told.
pub trait Observer {
    /// Task `number` has ended; said once of each.
    fn ended(&mut self, number: usize, end: End);
    /// Something a person may want to know.
    fn remark(&mut self, text: &str);
}

/// Follows tasks until each has ended.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    numbers: HashMap<String, usize>,
    /// Those that have not ended, by number, with how often the cluster did not know them.
    open: BTreeMap<usize, Open>,
    /// Where in the list of pending tasks ours begin.
    start_after: Option<String>,
    /// Pages of the pending list that the next sweep reads after the first of ours was seen.
    pages: usize,
}

#[derive(Debug)]
struct Open {
    task_id: String,
    misses: u32,
}

impl Watch {
    /// Watches the tasks with these ids; their order is that of their submission.
    pub fn new(client: &Client, ids: impl IntoIterator<Item = String>) -> Watch {
        let ids: Vec<String> = ids.into_iter().collect();
        let numbers = ids.iter().cloned().enumerate().map(|(n, id)| (id, n)).collect();
        let open = ids.into_iter().enumerate().map(|(n, task_id)| (n, Open { task_id, misses: 0 })).collect();
        Watch { client: client.with_deadline(CALL_LIMIT), numbers, open, start_after: None, pages: 1 }
    }

    /// The numbers of the tasks that have not ended.
    pub fn open(&self) -> Vec<usize> {
        self.open.keys().copied().collect()
    }

    /// Follows until every task has ended; an error when nobody has answered for `give_up`.
    pub async fn follow(
        &mut self,
        give_up: Duration,
        observer: &mut impl Observer,
    ) -> Result<(), ClientError> {
        let mut pause = SHORT_PAUSE;
        let mut silent_since: Option<Instant> = None;
        while !self.open.is_empty() {
            match self.sweep(observer).await {
                Ok(0) => {
                    silent_since = None;
                    pause = (pause * 2).min(LONG_PAUSE);
                }
                Ok(_) => {
                    silent_since = None;
                    pause = SHORT_PAUSE;
                }
                Err(error) => {
                    if silent_since.is_none() {
                        let limit = give_up.as_secs();
                        observer
                            .remark(&format!("the cluster can't be asked, trying on for {limit} s: {error}"));
                    }
                    let since = *silent_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= give_up {
                        return Err(error);
                    }
                    pause = LONG_PAUSE.min(give_up);
                }
            }
            if !self.open.is_empty() {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }

    /// One look at everything; how many tasks it found to have ended.
    async fn sweep(&mut self, observer: &mut impl Observer) -> Result<usize, ClientError> {
        let mut alive = HashSet::new();
        // In the order in which a task passes the states, so that one that moves on meanwhile is
        // seen in the later list.
        let horizon = self.pending(&mut alive).await?;
        self.all(TaskState::Assigned, &mut alive).await?;
        self.all(TaskState::Running, &mut alive).await?;
        let asked: Vec<(usize, String)> = self
            .open
            .range(..horizon)
            .filter(|(number, _)| !alive.contains(*number))
            .map(|(number, open)| (*number, open.task_id.clone()))
            .collect();
        let client = &self.client;
        let mut answers = futures_util::stream::iter(asked)
            .map(|(number, id)| async move {
                let path = format!("/api/tasks/{}", crate::worker::path_segment(&id));
                (number, client.get::<TaskRecord>(&path).await)
            })
            .buffer_unordered(MAX_CONCURRENT);
        let (mut found, mut wrong) = (0, 0);
        while let Some((number, answer)) = answers.next().await {
            let end = match answer {
                Ok(task) if task.state.is_final() => End::Final(task),
                Ok(_) => {
                    wrong += 1;
                    continue;
                }
                Err(error) if error.code() == Some(ErrorCode::UnknownTask) => {
                    let Some(open) = self.open.get_mut(&number) else { continue };
                    open.misses += 1;
                    if open.misses < MAX_MISSES {
                        continue;
                    }
                    End::NotThere
                }
                Err(error) => return Err(error),
            };
            self.open.remove(&number);
            found += 1;
            observer.ended(number, end);
        }
        drop(answers);
        if wrong >= WRONG_GUESSES {
            self.start_after = None;
        }
        self.pages = if found > 0 { 1 } else { (self.pages * 2).min(MAX_PAGES) };
        Ok(found)
    }

    /// Reads the list of pending tasks as far as this sweep goes. Of the tasks before the number
    /// it returns, all that are pending are in `alive`.
    async fn pending(&mut self, alive: &mut HashSet<usize>) -> Result<usize, ClientError> {
        let mut horizon = 0;
        let mut pages_with_ours = 0;
        let mut after = self.start_after.clone();
        for _ in 0..MAX_PAGES {
            let page = match self.page(TaskState::Pending, after.as_deref()).await {
                Ok(page) => page,
                // The place that was remembered is gone.
                Err(error) if self.start_after.is_some() && error.code() == Some(ErrorCode::Validation) => {
                    self.start_after = None;
                    after = None;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let ours = self.ours(&page);
            if let Some(last) = ours.iter().max() {
                if horizon == 0 {
                    self.start_after = after.clone();
                }
                horizon = horizon.max(last + 1);
            }
            alive.extend(&ours);
            if horizon > 0 {
                pages_with_ours += 1;
            }
            match page.next {
                None => return Ok(usize::MAX),
                Some(_) if pages_with_ours >= self.pages => return Ok(horizon),
                next => after = next,
            }
        }
        Ok(horizon)
    }

    async fn all(&self, state: TaskState, alive: &mut HashSet<usize>) -> Result<(), ClientError> {
        let mut after = None;
        for _ in 0..MAX_PAGES {
            let page = self.page(state, after.as_deref()).await?;
            alive.extend(self.ours(&page));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(())
    }

    async fn page(&self, state: TaskState, after: Option<&str>) -> Result<TaskPage, ClientError> {
        let mut path = format!("/api/tasks?status={state}&limit={PAGE_TASKS}");
        if let Some(after) = after {
            path.push_str(&format!("&after={}", crate::worker::path_segment(after)));
        }
        self.client.get(&path).await
    }

    fn ours(&self, page: &TaskPage) -> Vec<usize> {
        page.tasks.iter().filter_map(|task| self.numbers.get(&task.task_id).copied()).collect()
    }
}
