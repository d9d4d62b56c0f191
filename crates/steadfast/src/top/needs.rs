//! What needs a person, worst first; and what Steadfast is doing, in one line.

use jiff::Timestamp;

use super::{Daemon, Top};
use crate::text::n_of;
use crate::wire::{ModelRow, StatusBody};

/// A session that failed longer ago than this (a day) is no news.
const NEWS_S: i64 = 24 * 60 * 60;

impl Top {
    /// Sentences for a person, worst first. Empty: all is well, or nothing is known yet.
    pub(super) fn needs(&self, now: Timestamp) -> Vec<String> {
        let mut needs = Vec::new();
        if let Some(trouble) = &self.trouble {
            needs.push(trouble.clone());
        }
        let Some((status, _)) = &self.status else { return needs };
        if let Some(reason) = &status.paused {
            needs.push(format!("paused: {reason}"));
        }
        needs.extend(roles_without_models(status));
        needs.extend(uncallable(status));
        needs.extend(status.store.healed.iter().map(|line| format!("store: {line}")));
        if status.store.set_aside_records > 0 {
            let n = n_of(status.store.set_aside_records, "damaged record");
            needs.push(format!("store: {n} set aside; `steadfast store check` names them"));
        }
        let standing =
            self.sessions.iter().filter(|session| session.interrupted).count().max(status.sessions.interrupted);
        if standing > 0 {
            let is = if standing == 1 { "is" } else { "are" };
            needs.push(format!("{} {is} interrupted (u resumes)", n_of(standing, "session")));
        }
        let is_news = |at: &str| at.parse::<Timestamp>().is_ok_and(|at| now.as_second() - at.as_second() < NEWS_S);
        let failed = self.sessions.iter().filter(|session| session.phase == "failed" && is_news(&session.updated_at));
        let n_failed = failed.count();
        if n_failed > 0 {
            needs.push(format!("{} failed today (r retries)", n_of(n_failed, "session")));
        }
        let stuck = self.outbox.iter().find_map(|entry| entry.error.as_ref().filter(|_| !entry.issue.delivered));
        if let Some(error) = stuck {
            needs.push(format!("the outbox cannot be delivered: {error} (f tries again)"));
        }
        for (name, rate) in &status.rates {
            if rate.last_hour.level == "critical" {
                needs.push(format!("{} of the last hour is critical", super::rows::rate_name(name)));
            }
        }
        needs
    }

    /// What is being done, in one line.
    pub(super) fn doing(&self) -> String {
        let Some((status, _)) = &self.status else {
            return match self.daemon {
                Daemon::Looking | Daemon::Up => "looking …".to_owned(),
                Daemon::Away(_) => "no daemon answers".to_owned(),
            };
        };
        let counts = &status.sessions;
        let at_work: Vec<&crate::report::Report> =
            self.sessions.iter().filter(|session| super::rows::is_live(session) && session.phase != "queued").collect();
        let what = match at_work.first() {
            Some(first) if counts.active > 0 || !status.daemon => {
                let more = if at_work.len() > 1 { format!(" and {} more", at_work.len() - 1) } else { String::new() };
                format!("at work on {}{more}", first.idea_id)
            }
            _ if counts.active > 0 => format!("at work on {}", n_of(counts.active, "session")),
            _ if status.paused.is_some() => "paused".to_owned(),
            _ => "idle".to_owned(),
        };
        let agents = match self.at_work.n_busy() {
            0 => String::new(),
            n => format!(", {} busy", n_of(n, "agent")),
        };
        let queued = if counts.queued > 0 { format!(", {} in the queue", counts.queued) } else { String::new() };
        format!("{what}{agents}{queued}; {} completed, {} failed", counts.completed, counts.failed)
    }
}

fn is_out(row: &ModelRow) -> bool {
    row.circuit_breaker == "OPEN" || row.circuit_breaker.starts_with("UNAVAILABLE")
}

fn roles_without_models(status: &StatusBody) -> impl Iterator<Item = String> + '_ {
    let roles =
        [("planner", &status.roles.planner), ("coder", &status.roles.coder), ("reviewer", &status.roles.reviewer)];
    let out = roles.into_iter().filter(|(_, models)| !models.is_empty() && models.iter().all(is_out));
    out.map(|(role, _)| format!("no model of the {role} can be called now"))
}

/// Models that only a person can bring back, each once.
fn uncallable(status: &StatusBody) -> Vec<String> {
    let rows = [&status.roles.planner, &status.roles.coder, &status.roles.reviewer].into_iter().flatten();
    let mut found: Vec<String> = Vec::new();
    for row in rows.filter(|row| row.circuit_breaker.starts_with("UNAVAILABLE")) {
        let line = format!("{} is {}", row.model, row.circuit_breaker);
        if !found.contains(&line) {
            found.push(line);
        }
    }
    found
}
