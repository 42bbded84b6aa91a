-- Accounts, refresh tokens, revocations, and the lists that people look things up in.
--
-- Versions of the access list come from the one row of access_version, raised in the statement that writes: its
-- row lock lets the next writer go on only after the commit, so a reader never sees 8 before 7. A sequence would
-- not do that.

-- name: access_version
select version from access_version;

-- name: access_changes
select version, kind, subject, role, void, before, expires
from (
    select version, 'account' as kind, username as subject, role, disabled_at is not null as void,
           0::float8 as before, 0::bigint as expires
    from accounts where version > $1 and version <= $2
    union all
    select version, kind, subject, 'member', true,
           case when kind = 'user' then extract(epoch from before)::float8 else 0 end,
           coalesce(extract(epoch from expires_at)::bigint, 0)
    from revocations where version > $1 and version <= $2
) changes
order by version limit $3;

-- name: find_account
select username, password_hash, role, disabled_at is not null as disabled from accounts where username = $1;

-- name: list_accounts
select username, role, created_at, disabled_at from accounts order by username;

-- name: add_account
-- Nothing for a name that exists, or that somebody without an account has used ($4: take it over all the same).
with used as (
    select $4 = false and (
        exists (select from users where username = $1)
        or exists (select from cursors where username = $1 and conversation = 'lobby')
        or exists (
            select from cursors c join messages m on m.conversation = c.conversation and m.sender = $1
            where c.username = $1
        )
    ) as yes
), next as (
    update access_version set version = version + 1 returning version
)
insert into accounts (username, password_hash, role, version)
select $1, $2, $3, version from next, used where not yes
on conflict (username) do nothing
returning username;

-- name: set_password
-- With a time ($3, unix seconds) everything issued before is void. A copy of the request that comes late finds the
-- password changed already and lets the refresh tokens be that were issued since.
with changed as (
    select username from accounts where username = $1 and password_hash <> $2
), next as (
    update access_version set version = version + 1 where $3::float8 is not null returning version
), void as (
    insert into revocations as r (kind, subject, before, version)
    select 'user', username, to_timestamp($3::float8), version from next, changed
    on conflict (kind, subject) do update
    set before = greatest(r.before, excluded.before), version = excluded.version
), dropped as (
    delete from refresh_tokens where $3::float8 is not null and username in (select username from changed)
)
update accounts set password_hash = $2 where username = $1 returning username;

-- name: change_account
-- The role ($2) or whether it is disabled ($3); null leaves it. Older tokens are void either way.
with next as (
    update access_version set version = version + 2 returning version
), void as (
    insert into revocations as r (kind, subject, before, version)
    select 'user', a.username, clock_timestamp(), n.version - 1 from next n, accounts a where a.username = $1
    on conflict (kind, subject) do update
    set before = greatest(r.before, excluded.before), version = excluded.version
), dropped as (
    delete from refresh_tokens where username = $1
)
update accounts a
set role = coalesce($2::text, a.role), version = n.version,
    disabled_at = case $3::boolean when true then coalesce(a.disabled_at, now()) when false then null
                       else a.disabled_at end
from next n where a.username = $1
returning a.username;

-- name: keep_refresh
with expired as (
    delete from refresh_tokens where username = $2 and expires_at < now()
)
insert into refresh_tokens (token_hash, username, family, expires_at)
values ($1, $2, $3, to_timestamp($4::bigint))
on conflict (token_hash) do nothing;

-- name: find_refresh
select t.username, t.family, a.role, t.successor, t.expires_at < now() or a.disabled_at is not null as void,
       t.used_at is not null as used, t.used_at < now() - interval '30 seconds' as late
from refresh_tokens t join accounts a on a.username = t.username
where t.token_hash = $1
for update of t;

-- name: swap_refresh
with successor as (
    insert into refresh_tokens (token_hash, username, family, expires_at)
    select $2, username, family, to_timestamp($3::bigint) from refresh_tokens where token_hash = $1
    on conflict (token_hash) do nothing
)
update refresh_tokens set used_at = coalesce(used_at, now()), successor = coalesce(successor, $2)
where token_hash = $1;

-- name: drop_family
delete from refresh_tokens
where family = (select family from refresh_tokens where token_hash = $1);

-- name: revoke
-- One token ($1 'token', $2 its id, $4 its expiry) or a user's tokens ($1 'user', $2 the name, $3 issued before).
with old as (
    delete from revocations where kind = 'token' and expires_at < now() - interval '1 day' and subject <> $2
), dropped as (
    delete from refresh_tokens where $1::text = 'user' and username = $2
), next as (
    update access_version set version = version + 1 returning version
)
insert into revocations as r (kind, subject, before, expires_at, version)
select $1::text, $2, coalesce(to_timestamp($3::float8), 'infinity'), to_timestamp($4::bigint), version from next
on conflict (kind, subject) do update
set before = greatest(r.before, excluded.before), expires_at = excluded.expires_at, version = excluded.version;

-- name: list_for_user
-- A user's conversations by their last event, newest first, behind ($2 unix ms, $3 id).
select c.conversation, c.delivered_seq, c.read_seq, last.seq as last_seq,
       last.ordinal - coalesce(seen.ordinal, 0) as unread,
       last.id, last.conversation, last.seq, last.ordinal, last.sender, last.recipient, last.content,
       last.client_key, last.extra, last.at
from cursors c
join lateral (
    select m.id, m.conversation, m.seq, m.ordinal, m.sender, m.recipient, m.content, m.client_key, m.extra,
           (extract(epoch from m.timestamp) * 1000)::bigint as at
    from messages m where m.conversation = c.conversation order by m.seq desc limit 1
) last on true
left join lateral (
    select m.ordinal from messages m
    where m.conversation = c.conversation and m.seq <= c.read_seq order by m.seq desc limit 1
) seen on true
where c.username = $1 and ($2::bigint is null or (last.at, last.id) < ($2::bigint, $3::bigint))
order by last.at desc, last.id desc limit $4;

-- name: search_messages
-- Among the newest $8 messages of each conversation that $1 may read: those that match all of $2 and none of $3.
-- There is no index for it: one over all words would cost every message a seventh more, searched for or not.
select found.*
from (
    select 'lobby' as conversation
    union
    select conversation from cursors where username = $1
) mine
cross join lateral (
    select m.id, m.conversation, m.seq, m.ordinal, m.sender, m.recipient, m.content, m.client_key, m.extra,
           (extract(epoch from m.timestamp) * 1000)::bigint as at
    from messages m where m.conversation = mine.conversation order by m.seq desc limit $8
) found
where ($4::text is null or mine.conversation = $4)
  and found.content ~* all ($2::text[]) and not found.content ~* any ($3::text[])
  and ($5::bigint is null or (found.at, found.id) < ($5::bigint, $6::bigint))
order by found.at desc, found.id desc limit $7;

-- name: find_users
select username
from (
    select username from accounts where lower(username) like $1 and disabled_at is null
    union
    select username from users where lower(username) like $1
) names
order by lower(username), username limit $2;
