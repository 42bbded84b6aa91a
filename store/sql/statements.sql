-- Every statement of the store, by name. Batches come as one JSON parameter: a single statement is one
-- round trip, and in autocommit mode it is the whole transaction.

-- name: append_messages
-- Store a batch. Rows whose key is known are returned as they were stored; the others are numbered from
-- the bases that come with them (seq and ordinal: from the table, where the caller does not know) and
-- inserted. `same`: the known row says what this one says.
with input as materialized (
    select * from json_to_recordset($1::json) as r (
        i int, slot bigint, n bigint, conversation text, seq bigint, ordinal bigint,
        sender text, recipient text, key text, content text, extra jsonb, at bigint
    )
), known as materialized (
    select input.i, m.id, m.seq, m.ordinal, (extract(epoch from m.timestamp) * 1000)::bigint as at,
           m.content = input.content and m.extra is not distinct from input.extra as same
    from input
    join messages m
      on m.conversation = input.conversation and m.sender = input.sender and m.client_key = input.key
), fresh as (
    select input.*,
           row_number() over (partition by input.slot order by input.i) as slot_row,
           row_number() over (partition by input.conversation order by input.i) as conversation_row
    from input
    where not exists (select from known where known.i = input.i)
), numbered as materialized (
    select fresh.i, (fresh.slot << 47) + fresh.n + fresh.slot_row as id, fresh.conversation,
           coalesce(fresh.seq, last.seq, 0) + fresh.conversation_row as seq,
           coalesce(fresh.ordinal, last.ordinal, 0) + fresh.conversation_row as ordinal,
           fresh.sender, fresh.recipient, fresh.key, fresh.content, fresh.extra, fresh.at
    from fresh
    left join lateral (
        select m.seq, m.ordinal from messages m
        where m.conversation = fresh.conversation and fresh.seq is null
        order by m.seq desc limit 1
    ) last on true
), stored as (
    insert into messages (id, conversation, seq, ordinal, sender, recipient, content, timestamp, client_key, extra)
    select id, conversation, seq, ordinal, sender, recipient, content, to_timestamp(at / 1000.0), key, extra
    from numbered
), opened as (
    insert into cursors (username, conversation)
    select distinct party, conversation
    from numbered, lateral (values (sender), (recipient)) as parties (party)
    where seq = 1 and recipient is not null
    on conflict do nothing
)
select i, id, seq, ordinal, at, false as fresh, same from known
union all
select i, id, seq, ordinal, at, true, true from numbered;

-- name: move_cursors
-- Cumulative, never back, never past the end of the conversation. Returns the rows that moved.
with input as (
    select * from json_to_recordset($1::json) as r (username text, conversation text, delivered bigint, read bigint)
), bounded as (
    select i.username, i.conversation, least(i.delivered, last.seq) as delivered, least(i.read, last.seq) as read
    from input i
    cross join lateral (
        select coalesce(
            (select m.seq from messages m where m.conversation = i.conversation order by m.seq desc limit 1), 0
        ) as seq
    ) last
)
insert into cursors as c (username, conversation, delivered_seq, read_seq)
select username, conversation, greatest(delivered, read), read
from bounded
where greatest(delivered, read) > 0
order by username, conversation
on conflict (username, conversation) do update
set delivered_seq = greatest(c.delivered_seq, excluded.delivered_seq),
    read_seq = greatest(c.read_seq, excluded.read_seq)
where c.delivered_seq < excluded.delivered_seq or c.read_seq < excluded.read_seq
returning username, conversation, delivered_seq, read_seq;

-- name: save_last_seen
insert into users as u (username, last_seen)
select username, to_timestamp(at / 1000.0)
from json_to_recordset($1::json) as r (username text, at bigint)
order by username
on conflict (username) do update set last_seen = greatest(u.last_seen, excluded.last_seen);

-- name: lock_slots
-- The slots of $1 that nobody holds; the session that runs this is their writer until it ends.
select slot from unnest($1::int[]) as wanted (slot) where pg_try_advisory_lock(1213547074, slot);

-- name: raise_terms
update slots set term = term + 1 where slot = any($1::int[]) returning slot, term;

-- name: last_numbers
-- Each slot's newest n.
select slot,
       coalesce((
           select m.id & ((1::bigint << 47) - 1) from messages m
           where m.id > slot::bigint << 47 and m.id < (slot::bigint + 1) << 47
           order by m.id desc limit 1
       ), 0) as n
from unnest($1::int[]) as owned (slot);

-- name: read_epoch
select epoch from epoch;

-- name: read_settings
-- What the promise needs of the server.
select current_setting('fsync') as fsync, current_setting('full_page_writes') as full_page_writes,
       pg_is_in_recovery() as standby;

-- name: meet_lobby
-- First contact with the lobby: everything up to the reader's position counts as seen.
insert into cursors (username, conversation, delivered_seq, read_seq)
select username, 'lobby', last.seq, last.seq
from json_to_recordset($1::json) as r (username text, position bigint)
cross join lateral (
    select coalesce(
        (select m.seq from messages m where m.conversation = 'lobby' and m.id <= position order by m.seq desc limit 1), 0
    ) as seq
) last
order by username
on conflict do nothing;

-- name: list_conversations
-- For each question: the user's conversations with their ends up to the asker's positions (n by slot).
select r.i, c.conversation, c.delivered_seq, c.read_seq, coalesce(last.seq, 0) as last_seq,
       coalesce(last.ordinal, 0) - coalesce(seen.ordinal, 0) as unread,
       o.username as other, o.delivered_seq as other_delivered, o.read_seq as other_read
from json_to_recordset($1::json) as r (i int, username text, positions bigint[])
join cursors c on c.username = r.username
left join lateral (
    select m.seq, m.ordinal from messages m
    where m.conversation = c.conversation
      and (m.id & ((1::bigint << 47) - 1)) <= r.positions[(m.id >> 47)::int + 1]
    order by m.seq desc limit 1
) last on true
left join lateral (
    select m.ordinal from messages m
    where m.conversation = c.conversation and m.seq <= least(c.read_seq, coalesce(last.seq, 0))
    order by m.seq desc limit 1
) seen on true
left join cursors o
  on o.conversation = c.conversation and c.conversation like 'direct:%'
 and o.username = case when split_part(c.conversation, ':', 2) = c.username
                       then split_part(c.conversation, ':', 3) else split_part(c.conversation, ':', 2) end
 and o.username <> c.username
order by r.i, last.seq is null, c.conversation;

-- name: newest_events
-- For each part: the newest `count` events of (after, to], oldest first. Of large ones only as many as have `bytes` of
-- content and one more, which tells that there is more; of enormous ones at least two for the same reason.
select r.i, e.id, e.conversation, e.seq, e.ordinal, e.sender, e.recipient, e.content, e.client_key, e.extra, e.at
from json_to_recordset($1::json) as r (
    i int, conversation text, after bigint, upto bigint, count int, bytes bigint
)
cross join lateral (
    select m.*, (extract(epoch from m.timestamp) * 1000)::bigint as at,
           sum(octet_length(m.content)) over reading - octet_length(m.content) as before,
           row_number() over reading as place
    from (
        select m.* from messages m
        where m.conversation = r.conversation and m.seq > r.after and m.seq <= r.upto
        order by m.seq desc limit r.count
    ) m
    window reading as (order by m.seq desc)
) e
where e.before <= r.bytes or e.place <= 2
order by r.i, e.seq;

-- name: oldest_events
-- For each part: the oldest `count` events of (after, to], oldest first. Of large ones only as many as have `bytes` of
-- content and one more, which tells that there is more; of enormous ones at least two for the same reason.
select r.i, e.id, e.conversation, e.seq, e.ordinal, e.sender, e.recipient, e.content, e.client_key, e.extra, e.at
from json_to_recordset($1::json) as r (
    i int, conversation text, after bigint, upto bigint, count int, bytes bigint
)
cross join lateral (
    select m.*, (extract(epoch from m.timestamp) * 1000)::bigint as at,
           sum(octet_length(m.content)) over reading - octet_length(m.content) as before,
           row_number() over reading as place
    from (
        select m.* from messages m
        where m.conversation = r.conversation and m.seq > r.after and m.seq <= r.upto
        order by m.seq limit r.count
    ) m
    window reading as (order by m.seq)
) e
where e.before <= r.bytes or e.place <= 2
order by r.i, e.seq;

-- name: last_seq
select coalesce((select seq from messages where conversation = $1 order by seq desc limit 1), 0) as seq;

-- name: slot_log
-- A part of a slot's log, by id.
select m.id, m.conversation, m.seq, m.ordinal, m.sender, m.recipient, m.content, m.client_key, m.extra,
       (extract(epoch from m.timestamp) * 1000)::bigint as at
from messages m
where m.id > $1 and m.id <= $2
order by m.id limit $3;
