# Keeps what no file may hold: the ledger's URL, and the certificate of the API.
resource "azurerm_key_vault" "secrets" {
  name                          = local.global_name
  resource_group_name           = azurerm_resource_group.enginehouse.name
  location                      = azurerm_resource_group.enginehouse.location
  tenant_id                     = data.azurerm_client_config.current.tenant_id
  sku_name                      = "standard"
  rbac_authorization_enabled    = true
  purge_protection_enabled      = true
  soft_delete_retention_days    = 30
  public_network_access_enabled = true
  tags                          = var.tags

  network_acls {
    default_action = "Deny"
    bypass         = "AzureServices"
    ip_rules       = var.operator_cidrs
  }
}

# Whoever applies this writes the secret.
resource "azurerm_role_assignment" "applier_secrets" {
  scope                = azurerm_key_vault.secrets.id
  role_definition_name = "Key Vault Secrets Officer"
  principal_id         = data.azurerm_client_config.current.object_id
}

resource "azurerm_key_vault_secret" "ledger_url" {
  name             = "ledger-url"
  key_vault_id     = azurerm_key_vault.secrets.id
  content_type     = "URL of the ledger, with its password"
  value_wo         = "postgresql://${azurerm_postgresql_flexible_server.ledger.administrator_login}:${ephemeral.random_password.ledger.result}@${azurerm_postgresql_flexible_server.ledger.fqdn}:5432/${azurerm_postgresql_flexible_server_database.ledger.name}?ssl=require"
  value_wo_version = var.ledger_password_version
  depends_on       = [azurerm_role_assignment.applier_secrets]
}
