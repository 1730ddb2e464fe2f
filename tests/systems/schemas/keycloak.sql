-- Keycloak 26: its tables of users and roles (github.com/keycloak/keycloak, `model/jpa/…/META-INF/jpa-changelog-*`).

CREATE TABLE realm (
    id         varchar(36)  NOT NULL PRIMARY KEY,
    enabled    boolean      NOT NULL DEFAULT false,
    name       varchar(255) UNIQUE,
    not_before integer,
    ssl_required varchar(255)
);

CREATE TABLE user_entity (
    id                          varchar(36)  NOT NULL PRIMARY KEY,
    email                       varchar(255),
    email_constraint            varchar(255),
    email_verified              boolean      NOT NULL DEFAULT false,
    enabled                     boolean      NOT NULL DEFAULT false,
    federation_link             varchar(255),
    first_name                  varchar(255),
    last_name                   varchar(255),
    realm_id                    varchar(255),
    username                    varchar(255),
    created_timestamp           bigint,
    service_account_client_link varchar(255),
    not_before                  integer      NOT NULL DEFAULT 0,
    CONSTRAINT uk_dykn684sl8up1crfei6eckhd7 UNIQUE (realm_id, email_constraint),
    CONSTRAINT uk_ru8tt6t700s9v50bu18ws5ha6 UNIQUE (realm_id, username)
);

CREATE INDEX idx_user_email ON user_entity (email);

CREATE TABLE user_attribute (
    name                       varchar(255) NOT NULL,
    value                      varchar(255),
    user_id                    varchar(36)  NOT NULL REFERENCES user_entity (id),
    id                         varchar(36)  NOT NULL DEFAULT 'sybase-needs-something-here' PRIMARY KEY,
    long_value_hash            bytea,
    long_value_hash_lower_case bytea,
    long_value                 text
);

CREATE INDEX idx_user_attribute ON user_attribute (user_id);
CREATE INDEX idx_user_attribute_name ON user_attribute (name, value);

CREATE TABLE keycloak_role (
    id                      varchar(36)  NOT NULL PRIMARY KEY,
    client_realm_constraint varchar(255),
    client_role             boolean      NOT NULL DEFAULT false,
    description             varchar(255),
    name                    varchar(255),
    realm_id                varchar(255),
    client                  varchar(36),
    realm                   varchar(36)  REFERENCES realm (id),
    CONSTRAINT "UK_J3RWUVD56ONTGSUHOGM184WW2-2" UNIQUE (name, client_realm_constraint)
);

CREATE INDEX idx_keycloak_role_realm ON keycloak_role (realm);

CREATE TABLE user_role_mapping (
    role_id varchar(255) NOT NULL,
    user_id varchar(36)  NOT NULL REFERENCES user_entity (id),
    PRIMARY KEY (role_id, user_id)
);

CREATE INDEX idx_user_role_mapping ON user_role_mapping (user_id);

CREATE TABLE keycloak_group (
    id           varchar(36) NOT NULL PRIMARY KEY,
    name         varchar(255),
    parent_group varchar(36) NOT NULL,
    realm_id     varchar(36),
    type         integer     NOT NULL DEFAULT 0,
    CONSTRAINT sibling_names UNIQUE (realm_id, parent_group, name)
);

CREATE TABLE user_group_membership (
    group_id        varchar(36)  NOT NULL,
    user_id         varchar(36)  NOT NULL REFERENCES user_entity (id),
    membership_type varchar(255) NOT NULL DEFAULT 'UNMANAGED',
    PRIMARY KEY (group_id, user_id)
);

CREATE INDEX idx_user_group_mapping ON user_group_membership (user_id);

CREATE TABLE group_role_mapping (
    role_id  varchar(36) NOT NULL,
    group_id varchar(36) NOT NULL REFERENCES keycloak_group (id),
    PRIMARY KEY (role_id, group_id)
);

CREATE TABLE federated_identity (
    identity_provider  varchar(255) NOT NULL,
    realm_id           varchar(36),
    federated_user_id  varchar(255),
    federated_username varchar(255),
    token              text,
    user_id            varchar(36)  NOT NULL REFERENCES user_entity (id),
    PRIMARY KEY (identity_provider, user_id)
);

CREATE INDEX idx_fedidentity_user ON federated_identity (user_id);
CREATE INDEX idx_fedidentity_feduser ON federated_identity (federated_user_id);

CREATE TABLE credential (
    id              varchar(36) NOT NULL PRIMARY KEY,
    type            varchar(255),
    user_id         varchar(36) REFERENCES user_entity (id),
    created_date    bigint,
    user_label      varchar(255),
    secret_data     text,
    credential_data text,
    priority        integer
);

CREATE INDEX idx_user_credential ON credential (user_id);
