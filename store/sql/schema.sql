-- The whole schema as the migrations leave it, for reading; tests compare the two. Nothing runs this file:
-- a change goes into a new migration, and then in here.

-- Which migrations were applied; kept by store.database.migrate.
create table schema_migrations (
    number int primary key,
    name text not null,
    applied_at timestamptz not null default now()
);

-- One row: which incarnation of the data this is, in seconds since 2020 at the time it was made.
create table epoch (
    only_row boolean primary key default true check (only_row),
    epoch bigint not null
);

-- 64 rows, 0 to 63. The term grows by one each time the slot changes hands.
create table slots (
    slot smallint primary key check (slot between 0 and 63),
    term bigint not null default 0
);

create table messages (
    id bigint not null,
    conversation text not null,
    seq bigint not null,
    ordinal bigint not null,
    sender text not null,
    recipient text,
    content text not null,
    timestamp timestamptz not null,
    client_key text not null,
    extra jsonb,
    constraint messages_pkey primary key (conversation, seq),
    constraint messages_id_key unique (id),
    constraint messages_client_key unique (conversation, sender, client_key)
);
comment on column messages.id is 'slot * 2^47 + n: the place in the slot''s log';
comment on column messages.seq is '1, 2, 3 ... in the conversation, over all its events';
comment on column messages.ordinal is '1, 2, 3 ... in the conversation, over its messages';
comment on column messages.recipient is 'the other user of a direct message; null in the lobby';
comment on column messages.client_key is 'the sender''s own id for this send, or one the server made (~...)';
comment on column messages.extra is 'what few messages carry: reply_to, mentions';

-- How far each user has received and read each conversation; also the list of a user's conversations.
create table cursors (
    username text not null,
    conversation text not null,
    delivered_seq bigint not null default 0,
    read_seq bigint not null default 0,
    constraint cursors_pkey primary key (username, conversation),
    constraint cursors_order check (read_seq <= delivered_seq)
) with (fillfactor = 80);

create table users (
    username text primary key,
    last_seen timestamptz not null
);

-- One row: the version of the access list, raised in every statement that changes accounts or revocations.
create table access_version (
    only_row boolean primary key default true check (only_row),
    version bigint not null default 0
);

-- Who signs in with a password. `version`: of the access list, when the row changed last.
create table accounts (
    username text primary key,
    password_hash text not null,
    role text not null default 'member' constraint accounts_role check (role in ('member', 'admin')),
    created_at timestamptz not null default now(),
    disabled_at timestamptz,
    version bigint not null constraint accounts_version unique
);
create index accounts_search on accounts (lower(username) text_pattern_ops);
create index users_search on users (lower(username) text_pattern_ops);

-- kind 'token': void until it expires. kind 'user': every token issued before `before` is void.
create table revocations (
    kind text not null constraint revocations_kind check (kind in ('token', 'user')),
    subject text not null,
    before timestamptz not null default 'infinity',
    expires_at timestamptz,
    version bigint not null constraint revocations_version unique,
    constraint revocations_pkey primary key (kind, subject)
);

-- By SHA-256. A family is what came out of one sign-in; it is void as a whole.
create table refresh_tokens (
    token_hash bytea primary key,
    username text not null references accounts on delete cascade,
    family text not null,
    expires_at timestamptz not null,
    used_at timestamptz,
    successor bytea
);
create index refresh_tokens_family on refresh_tokens (family);
create index refresh_tokens_username on refresh_tokens (username);

-- Each direct message with its state: has the recipient received it, has the recipient read it.
create view direct_messages as
select m.id, m.conversation, m.seq, m.sender, m.recipient, m.content, m.timestamp,
       case when coalesce(c.delivered_seq, 0) >= m.seq then 'delivered' else 'undelivered' end as delivery,
       coalesce(c.read_seq, 0) >= m.seq as read
from messages m
left join cursors c on c.username = m.recipient and c.conversation = m.conversation
where m.recipient is not null;
