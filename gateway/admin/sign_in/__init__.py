"""Sign-in to the console by OpenID Connect: authorization code flow with PKCE, sessions in cookies."""
