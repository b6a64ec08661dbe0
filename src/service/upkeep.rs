//! Verbs for the upkeep of repositories.

use super::Service;
use super::api::{CheckedInfo, CollectedInfo, Progress, RefInfo, StatsInfo, TallyInfo, UniqueInfo, WireError};
use super::copying::Report;
use super::garbage::How;
use super::home::{Home, RepositoryKey};
use super::operations::{CollectGarbage, RemoveRef};
use super::records::SnapshotRecord;
use super::repositories::Repositories;
use crate::error::{Error, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::snapshot::compact::Threshold;
use crate::snapshot::refs::{Ref, RefKind};
use crate::snapshot::repository::Repository;
use crate::snapshot::stats::{FoundRef, Stats};
use crate::units::{InstallationId, SnapshotId};
use std::collections::BTreeMap;

impl Service {
    /// Returns the repository with a name, or all of them.
    fn repositories_named(&self, what: Option<&str>) -> Result<Vec<RepositoryKey>> {
        match what {
            Some(what) => Ok(vec![self.repositories.find(what)?]),
            None => self.repositories.keys(),
        }
    }

    /// Collects garbage in a repository, or in all: then what is wrong with one does not keep it from the others.
    pub(super) fn collect_garbage(
        &self,
        caller: &Caller,
        asked: &CollectGarbage,
        report: Report<'_>,
    ) -> Result<Vec<CollectedInfo>> {
        let threshold = Threshold { dry_run: asked.dry_run, ..Threshold::default() };
        let how = How { threshold, rate: asked.rate };
        if asked.rate == Some(0) {
            return Err(Error::new(Kind::Usage, "collect garbage: a rate of 0 bytes per second copies nothing"));
        }
        if !asked.dry_run {
            self.unsettled.settle();
        }
        let mut all = Vec::new();
        for key in self.repositories_named(asked.repository.as_deref())? {
            match self.collector.collect(caller, key, how, report) {
                Err(err) if asked.repository.is_none() && err.kind() != Kind::Interrupted => all.push(CollectedInfo {
                    repository: self.repositories.name_of(key),
                    errors: vec![WireError::from(&err)],
                    ..CollectedInfo::default()
                }),
                done => all.push(done?),
            }
        }
        Ok(all)
    }

    /// Counts what is in a repository, or in all.
    pub(super) fn repository_stats(&self, what: Option<&str>) -> Result<Vec<StatsInfo>> {
        let known: BTreeMap<SnapshotId, SnapshotRecord> =
            self.records.snapshots()?.into_iter().map(|r| (r.id, r)).collect();
        let own = self.kms.installation().id;
        let mut all = Vec::new();
        for key in self.repositories_named(what)? {
            let mut info = StatsInfo { repository: self.repositories.name_of(key), ..StatsInfo::default() };
            let mut count = |home: Home, opened: &Repository| {
                let stats = opened.stats(home.lineage, &self.lineages.known(home, opened)?)?;
                add_stats(&mut info, stats, &known, own);
                Ok(())
            };
            info.errors = self.each_lineage(key, what.is_none(), &mut count)?;
            info.total = info.objects.iter().map(|t| t.bytes).sum();
            info.snapshots.sort_by_key(|s| (std::cmp::Reverse(s.unique), s.snapshot));
            all.push(info);
        }
        Ok(all)
    }

    /// Checks a repository, or all.
    pub(super) fn check_repositories(
        &self,
        what: Option<&str>,
        read_data: bool,
        report: Report<'_>,
    ) -> Result<Vec<CheckedInfo>> {
        let mut all = Vec::new();
        for key in self.repositories_named(what)? {
            let repository = self.repositories.name_of(key);
            let mut info = CheckedInfo { repository, read_data, ..CheckedInfo::default() };
            let mut check = |home: Home, opened: &Repository| {
                let mut done = 0;
                let mut go_on = |bytes, total| {
                    done += bytes;
                    let (what, unit) = ("check".to_owned(), "bytes".to_owned());
                    report(Progress { what, done, total: Some(total), unit })
                };
                let found = opened.check(home.lineage, &self.lineages.known(home, opened)?, read_data, &mut go_on)?;
                info.objects += found.objects;
                info.bytes += found.bytes;
                info.problems.extend(found.problems);
                info.orphaned += found.orphans.iter().map(|o| o.size).sum::<u64>();
                let room = ORPHANS_MAX.saturating_sub(info.orphans.len());
                info.orphans.extend(found.orphans.into_iter().take(room).map(|o| o.path));
                // A log that was rolled back is whole in itself.
                self.logs.check(home)
            };
            info.errors = self.each_lineage(key, what.is_none(), &mut check)?;
            all.push(info);
        }
        Ok(all)
    }

    /// Calls `each` for every lineage of this installation in a repository. Returns the errors of those that failed; if `all`
    /// repositories are asked for, also why this one cannot be opened.
    fn each_lineage(
        &self,
        key: RepositoryKey,
        all: bool,
        each: &mut dyn FnMut(Home, &Repository) -> Result<()>,
    ) -> Result<Vec<WireError>> {
        let opened = self.repositories.open(key).and_then(|opened| Ok((opened.own_lineages()?, opened)));
        let (lineages, opened) = match opened {
            Err(err) if all => return Ok(vec![WireError::from(&err)]),
            opened => opened?,
        };
        let mut errors = Vec::new();
        for lineage in lineages {
            let home = Home { repository: key, lineage };
            match each(home, &opened) {
                Err(err) if err.kind() == Kind::Interrupted => return Err(err),
                Err(err) => errors.push(WireError::from(&err.context(home))),
                Ok(()) => {}
            }
        }
        Ok(errors)
    }

    /// Removes a ref by hand.
    pub(super) fn remove_ref(&self, caller: &Caller, asked: &RemoveRef) -> Result<String> {
        let (home, found) = self.find_ref(&asked.name, asked.repository.as_deref())?;
        let breaks = self.what_breaks(&found);
        if !asked.force {
            let what = format!("remove the ref {}: {breaks}", asked.name);
            return Err(Error::new(Kind::InvalidState, what).hint("add --force if you are sure"));
        }
        let repository = self.repositories.open(home.repository)?;
        let snapshot = found.content.as_ref().map_or_else(|_| "unreadable".to_owned(), |r| r.snapshot.to_string());
        let act = Act::new("coffer:RemoveRef")
            .detail("ref", &asked.name)
            .detail("snapshot", &snapshot)
            .detail("repository", home.repository);
        self.ledger().audited(caller, act, |tx| Repositories::must_know(tx, home.repository))?;
        repository.remove_ref(home.lineage, &asked.name)?;
        self.lineages.sweep_later(home);
        Ok(format!("the ref {} on {snapshot} is removed", asked.name))
    }

    fn find_ref(&self, name: &str, repository: Option<&str>) -> Result<(Home, FoundRef)> {
        for key in self.repositories_named(repository)? {
            let opened = match self.repositories.open(key) {
                Err(err) if repository.is_none() => {
                    tracing::warn!("look for the ref {name}: {}", err.line());
                    continue;
                }
                opened => opened?,
            };
            for lineage in opened.lineages()? {
                if let Some(found) = opened.found_refs(lineage)?.into_iter().find(|r| r.name == name) {
                    return Ok((Home { repository: key, lineage }, found));
                }
            }
        }
        Err(Error::new(Kind::NotFound, format!("there is no ref {name}")).hint("see `coffer repository stats`"))
    }

    /// Says what removing a ref breaks.
    fn what_breaks(&self, found: &FoundRef) -> String {
        let content = match &found.content {
            Ok(content) => content,
            Err(err) => return format!("it is unreadable ({}), so nobody knows which snapshot it keeps", err.line()),
        };
        let Ref { installation, id, snapshot, heartbeat, .. } = content;
        let volume = |sort: &str| id.strip_suffix(sort);
        if *installation != self.kms.installation().id {
            let lost = "what needs the snapshot there cannot be read once the snapshot is deleted";
            return format!(
                "installation {installation} put it on {snapshot} and last confirmed it at {heartbeat}: {lost}"
            );
        }
        if let Some(volume) = volume("-fill") {
            return format!(
                "volume {volume} may still be filled from {snapshot}: once that is deleted, the rest is lost"
            );
        }
        if let Some(volume) = volume("-base") {
            return format!(
                "the next snapshot of volume {volume} is based on {snapshot}: without it, it is a full one"
            );
        }
        format!("the job {id} may still need {snapshot}")
    }
}

/// Most paths of orphans in an answer.
const ORPHANS_MAX: usize = 1000;

fn add_stats(info: &mut StatsInfo, stats: Stats, known: &BTreeMap<SnapshotId, SnapshotRecord>, own: InstallationId) {
    let Stats { packs, pages, manifests, redirects, records, live, shared, garbage, pending, unique, refs, faults } =
        stats;
    let all =
        [("packs", packs), ("pages", pages), ("manifests", manifests), ("redirects", redirects), ("records", records)];
    for (sort, tally) in all {
        match info.objects.iter_mut().find(|t| t.sort == sort) {
            Some(sum) => {
                sum.objects += tally.objects;
                sum.bytes += tally.bytes;
            }
            None => {
                info.objects.push(TallyInfo { sort: sort.to_owned(), objects: tally.objects, bytes: tally.bytes });
            }
        }
    }
    info.live += live;
    info.shared += shared;
    info.garbage += garbage;
    info.pending += pending;
    info.faults.extend(faults);
    info.snapshots.extend(unique.into_iter().map(|(snapshot, unique)| {
        let record = known.get(&snapshot);
        UniqueInfo { snapshot, name: record.and_then(|r| r.name.clone()), volume: record.map(|r| r.volume), unique }
    }));
    info.refs.extend(refs.into_iter().map(|found| shown(found, own)));
}

fn shown(found: FoundRef, own: InstallationId) -> RefInfo {
    let own = found.name.starts_with(&format!("{own}-"));
    let (name, content) = (found.name, found.content);
    match content {
        Ok(content) => {
            let kind = match content.kind {
                RefKind::Volume => "volume",
                RefKind::Job => "job",
            };
            let (snapshot, heartbeat) = (Some(content.snapshot), Some(content.heartbeat));
            RefInfo { name, snapshot, kind: Some(kind.to_owned()), heartbeat, own, error: None }
        }
        Err(err) => RefInfo { name, snapshot: None, kind: None, heartbeat: None, own, error: Some(err.line()) },
    }
}
