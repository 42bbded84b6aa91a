-- Accounts, refresh tokens and revocations; and search over names.

create table access_version (
    only_row boolean primary key default true check (only_row),
    version bigint not null default 0
);
insert into access_version default values;

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

create table revocations (
    kind text not null constraint revocations_kind check (kind in ('token', 'user')),
    subject text not null,
    before timestamptz not null default 'infinity',
    expires_at timestamptz,
    version bigint not null constraint revocations_version unique,
    constraint revocations_pkey primary key (kind, subject)
);

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
